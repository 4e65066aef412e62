{{/*
Every template here takes the chart's own context: `.` in this chart, `index .Subcharts "suki-relay"` in a parent.
README.md lists those that a parent includes.
*/}}

{{- define "suki-relay.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* 50: what Kubernetes and this chart append must fit in 63. */}}
{{- define "suki-relay.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The headless Service: names for pods, and the admin port. */}}
{{- define "suki-relay.podsServiceName" -}}
{{ include "suki-relay.fullname" . }}-pods
{{- end -}}

{{- define "suki-relay.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "suki-relay.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "suki-relay.signingSecretName" -}}
{{- default (printf "%s-signing" (include "suki-relay.fullname" .)) .Values.signing.existingSecret -}}
{{- end -}}

{{- define "suki-relay.operatorSecretName" -}}
{{- default (printf "%s-operator" (include "suki-relay.fullname" .)) .Values.operator.existingSecret -}}
{{- end -}}

{{/* Empty if neither an existing Secret nor cert-manager brings a certificate. */}}
{{- define "suki-relay.tlsSecretName" -}}
{{- if .Values.tls.certManager.enabled -}}
{{ include "suki-relay.fullname" . }}-tls
{{- else -}}
{{- .Values.tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* What Services, budgets and policies find the pods by. */}}
{{- define "suki-relay.selectorLabels" -}}
app.kubernetes.io/name: {{ include "suki-relay.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: relay
{{- end -}}

{{- define "suki-relay.labels" -}}
{{- $labels := omit (include "suki-relay.selectorLabels" . | fromYaml) "app.kubernetes.io/component" -}}
{{- $own := dict "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/managed-by" .Release.Service -}}
{{- merge $labels $own .Values.commonLabels | toYaml -}}
{{- end -}}

{{- define "suki-relay.image" -}}
{{- $image := .Values.image -}}
{{ $image.repository }}:{{ default .Chart.AppVersion $image.tag }}{{ with $image.digest }}@{{ . }}{{ end }}
{{- end -}}

{{/* The names that the Service answers to. */}}
{{- define "suki-relay.serviceNames" -}}
{{- $name := include "suki-relay.fullname" . -}}
- {{ $name }}
- {{ $name }}.{{ .Release.Namespace }}
- {{ $name }}.{{ .Release.Namespace }}.svc
- {{ $name }}.{{ .Release.Namespace }}.svc.cluster.local
{{- end -}}
