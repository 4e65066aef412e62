{{/* The relay's container. As a native sidecar: `suki-relay.initContainers`. */}}
{{- define "suki-relay.container" -}}
{{- $config := include "suki-relay.config" . | fromYaml -}}
{{- $admin := include "suki-relay.adminPort" . | int -}}
name: suki-relay
image: {{ include "suki-relay.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [run, --config, /etc/suki-relay/config/config.yaml]
{{- include "suki-relay.env" . }}
ports:
  - name: https
    containerPort: {{ include "suki-relay.listenPort" . }}
    protocol: TCP
  - name: admin
    containerPort: {{ $admin }}
    protocol: TCP
startupProbe:
  httpGet: { path: /startupz, port: {{ $admin }} }
  {{- toYaml .Values.probes.startup | nindent 2 }}
livenessProbe:
  httpGet: { path: /livez, port: {{ $admin }} }
  {{- toYaml .Values.probes.liveness | nindent 2 }}
readinessProbe:
  httpGet: { path: /readyz, port: {{ $admin }} }
  {{- toYaml .Values.probes.readiness | nindent 2 }}
{{- with .Values.lifecycle }}
lifecycle:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
  {{- include "suki-relay.fileMounts" . | nindent 2 }}
  {{- if include "suki-relay.onDisk" . }}
  - name: suki-relay-spool
    mountPath: {{ $config.spool.disk.path }}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "suki-relay.env" -}}
{{- with .Values.env }}
env:
  {{- range $name, $value := . }}
  - name: {{ $name | quote }}
    {{- /* A number of a value file is a float here, and a large one would come out as 1e+06. */}}
    {{- if and (kindIs "float64" $value) (eq (float64 (int64 $value)) $value) }}
    value: {{ int64 $value | quote }}
    {{- else }}
    value: {{ $value | quote }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Config, Secrets and other files, never by subPath: the relay follows them. */}}
{{- define "suki-relay.fileMounts" -}}
- name: suki-relay-config
  mountPath: /etc/suki-relay/config
  readOnly: true
- name: suki-relay-signing
  mountPath: /etc/suki-relay/secrets
  readOnly: true
{{- if include "suki-relay.tlsSecretName" . }}
- name: suki-relay-tls
  mountPath: /etc/suki-relay/tls
  readOnly: true
{{- end }}
{{- if include "suki-relay.tokenMounted" . }}
- name: suki-relay-operator
  mountPath: /etc/suki-relay/operator
  readOnly: true
{{- end }}
{{- range $index, $entry := .Values.files }}
- name: suki-relay-files-{{ $index }}
  mountPath: {{ $entry.path }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "suki-relay.tokenMounted" -}}
{{- if and .Values.operator.enabled (not (default dict (default dict .Values.config.admin).operator).token) }}true{{ end -}}
{{- end -}}

{{/* Volumes of the pod, a list. The spool's is among them only where it is not claimed. */}}
{{- define "suki-relay.volumes" -}}
- name: suki-relay-config
  configMap:
    name: {{ include "suki-relay.fullname" . }}
- name: suki-relay-signing
  secret:
    secretName: {{ include "suki-relay.signingSecretName" . | quote }}
    defaultMode: 0440
{{- with include "suki-relay.tlsSecretName" . }}
- name: suki-relay-tls
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
{{- end }}
{{- if include "suki-relay.tokenMounted" . }}
- name: suki-relay-operator
  secret:
    secretName: {{ include "suki-relay.operatorSecretName" . | quote }}
    defaultMode: 0440
{{- end }}
{{- range $index, $entry := .Values.files }}
- name: suki-relay-files-{{ $index }}
  {{- if $entry.existingSecret }}
  secret:
    secretName: {{ $entry.existingSecret | quote }}
    defaultMode: 0440
  {{- else }}
  configMap:
    name: {{ $entry.existingConfigMap | quote }}
  {{- end }}
{{- end }}
{{- if and (include "suki-relay.onDisk" .) (not .Values.persistence.enabled) }}
- name: suki-relay-spool
  emptyDir: {}
{{- end }}
{{- end -}}

{{/* Claims of a StatefulSet, a list; empty where nothing is claimed. */}}
{{- define "suki-relay.volumeClaimTemplates" -}}
{{- if and (include "suki-relay.onDisk" .) .Values.persistence.enabled -}}
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata:
    name: suki-relay-spool
    labels:
      {{- include "suki-relay.selectorLabels" . | nindent 6 }}
    {{- with .Values.persistence.annotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    accessModes: [{{ .Values.persistence.accessMode }}]
    {{- with .Values.persistence.storageClass }}
    storageClassName: {{ . | quote }}
    {{- end }}
    resources:
      requests:
        storage: {{ .Values.persistence.size | quote }}
{{- end -}}
{{- end -}}

{{/* The optional check of the config, before anything starts; a list. */}}
{{- define "suki-relay.checkContainers" -}}
{{- if .Values.checkConfig.enabled -}}
- name: suki-relay-check
  image: {{ include "suki-relay.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [check, --config, /etc/suki-relay/config/config.yaml]
  {{- include "suki-relay.env" . | nindent 2 }}
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    {{- include "suki-relay.fileMounts" . | nindent 4 }}
    {{- with .Values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
{{- end -}}

{{/*
The relay as a native sidecar, a list for `initContainers`: up before the containers of the pod, down after them.
It has no preStop hook: that would run when they have not yet ended.
*/}}
{{- define "suki-relay.initContainers" -}}
{{- with include "suki-relay.checkContainers" . }}
{{- . }}
{{ end -}}
- restartPolicy: Always
  {{- include "suki-relay.container" . | nindent 2 }}
{{- end -}}

{{/* What a change of must replace pods. */}}
{{- define "suki-relay.podAnnotations" -}}
suki-relay/restart-checksum: {{ include "suki-relay.restartChecksum" . }}
{{- end -}}

{{- define "suki-relay.podSecurityContext" -}}
{{- toYaml .Values.podSecurityContext -}}
{{- end -}}
