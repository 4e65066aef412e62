{{/* The pod of this chart's own workload. */}}
{{- define "suki-relay.podSpec" -}}
serviceAccountName: {{ include "suki-relay.serviceAccountName" . | quote }}
automountServiceAccountToken: {{ .Values.serviceAccount.automount }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "suki-relay.podSecurityContext" . | nindent 2 }}
terminationGracePeriodSeconds: {{ include "suki-relay.terminationGracePeriodSeconds" . }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- include "suki-relay.spread" . | nindent 2 }}
{{- if eq .Values.mode "sidecar" }}
initContainers:
  {{- with .Values.extraInitContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- include "suki-relay.initContainers" . | nindent 2 }}
containers:
  - {{ include "suki-relay.appContainer" . | nindent 4 | trim }}
  {{- with .Values.app.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- else }}
{{- $check := include "suki-relay.checkContainers" . }}
{{- if or $check .Values.extraInitContainers }}
initContainers:
  {{- with .Values.extraInitContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with $check }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end }}
containers:
  - {{ include "suki-relay.container" . | nindent 4 | trim }}
{{- end }}
volumes:
  {{- include "suki-relay.volumes" . | nindent 2 }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "suki-relay.spread" -}}
{{- if kindIs "invalid" .Values.topologySpreadConstraints -}}
{{- range $index, $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" -}}
{{- if $index }}
{{ end -}}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "suki-relay.selectorLabels" $ | nindent 6 }}
{{- end }}
{{- else -}}
{{- toYaml .Values.topologySpreadConstraints -}}
{{- end -}}
{{- end -}}

{{/* The container beside the relay: yours, or one that prints what it receives. */}}
{{- define "suki-relay.appContainer" -}}
{{- $app := .Values.app -}}
name: {{ $app.name | quote }}
{{- if $app.image }}
image: {{ $app.image }}
imagePullPolicy: {{ $app.pullPolicy }}
{{- with $app.command }}
command:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $app.args }}
args:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $app.securityContext | nindent 2 }}
{{- else }}
image: {{ include "suki-relay.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [sink, --http, "127.0.0.1:8080"]
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
{{- end }}
{{- range $key := list "ports" "env" "envFrom" "livenessProbe" "readinessProbe" "startupProbe" "lifecycle" "volumeMounts" "resources" }}
{{- with get $app $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}
