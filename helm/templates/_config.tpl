{{/*
The relay's config file, as YAML: what the values say, and where the chart puts certificate, token and spool.
Nothing that the values say is changed; what they leave out is filled in.
*/}}
{{- define "suki-relay.config" -}}
{{- $config := deepCopy .Values.config -}}

{{- $listen := default dict $config.listen -}}
{{- $tls := default dict $listen.tls -}}
{{- if include "suki-relay.tlsSecretName" . -}}
{{- $tls = merge $tls (dict "certificate" "/etc/suki-relay/tls/tls.crt" "private_key" "/etc/suki-relay/tls/tls.key") -}}
{{- else if not (or $tls.certificate $tls.private_key $tls.self_signed) -}}
{{- $_ := set $tls "self_signed" (append (include "suki-relay.serviceNames" . | fromYamlArray) "localhost") -}}
{{- end -}}
{{- $_ := set $config "listen" (merge (dict "tls" $tls) $listen (dict "address" "0.0.0.0:8443")) -}}

{{- $admin := default dict $config.admin -}}
{{- if .Values.operator.enabled -}}
{{- $token := dict "file" "/etc/suki-relay/operator/token" -}}
{{- $operator := default dict $admin.operator -}}
{{- $operator = merge $operator (dict "address" "127.0.0.1:9741" "token" $token) -}}
{{- $_ := set $admin "operator" $operator -}}
{{- else -}}
{{- $_ := set $admin "operator" nil -}}
{{- end -}}
{{- $_ := set $config "admin" (merge $admin (dict "address" "0.0.0.0:9740")) -}}

{{- $spool := default dict $config.spool -}}
{{- if include "suki-relay.onDisk" . -}}
{{- $disk := merge (default dict $spool.disk) (dict "path" "/var/lib/suki-relay" "capacity" "4GiB") -}}
{{- $_ := set $spool "disk" $disk -}}
{{- end -}}
{{- $_ := set $config "spool" $spool -}}

{{- $drain := merge (default dict $config.drain) (dict "delay" "10s" "deadline" "25s") -}}
{{- $_ := set $config "drain" $drain -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Of what a running relay cannot take over: a change of it replaces the pods, any other change does not. */}}
{{- define "suki-relay.restartChecksum" -}}
{{- $config := include "suki-relay.config" . | fromYaml -}}
{{- pick $config "listen" "admin" "spool" "drain" | toJson | sha256sum -}}
{{- end -}}

{{- define "suki-relay.listenPort" -}}
{{- (include "suki-relay.config" . | fromYaml).listen.address | regexFind "[0-9]+$" -}}
{{- end -}}

{{- define "suki-relay.adminPort" -}}
{{- (include "suki-relay.config" . | fromYaml).admin.address | regexFind "[0-9]+$" -}}
{{- end -}}

{{/* What the relay needs from SIGTERM to its end. */}}
{{- define "suki-relay.stopSeconds" -}}
{{- $config := include "suki-relay.config" . | fromYaml -}}
{{- $needed := add (include "suki-relay.seconds" $config.drain.deadline | int) 5 -}}
{{- if eq .Values.mode "sidecar" -}}
{{- $needed = add $needed .Values.app.stopSeconds -}}
{{- end -}}
{{- $needed -}}
{{- end -}}

{{- define "suki-relay.terminationGracePeriodSeconds" -}}
{{- default (include "suki-relay.stopSeconds" .) .Values.terminationGracePeriodSeconds | int64 -}}
{{- end -}}

{{/* `true` or empty: each pod needs a volume. */}}
{{- define "suki-relay.onDisk" -}}
{{- $spool := default dict .Values.config.spool -}}
{{- if or (not $spool.postgres) (default dict $spool.disk).fallback }}true{{ end -}}
{{- end -}}

{{- define "suki-relay.workloadKind" -}}
{{- if include "suki-relay.onDisk" . }}StatefulSet{{ else }}Deployment{{ end -}}
{{- end -}}

{{- define "suki-relay.replicas" -}}
{{- $usual := eq .Values.mode "standalone" | ternary 2 1 -}}
{{- if kindIs "invalid" .Values.replicas }}{{ $usual }}{{ else }}{{ int .Values.replicas }}{{ end -}}
{{- end -}}

{{/* `true` or empty: a pod with your container in it, and never another one beside that. */}}
{{- define "suki-relay.alone" -}}
{{- $kind := include "suki-relay.workloadKind" . -}}
{{- if and (eq .Values.mode "sidecar") (eq $kind "StatefulSet") (lt (include "suki-relay.replicas" . | int) 2) }}true{{ end -}}
{{- end -}}

{{- define "suki-relay.budget" -}}
{{- $enabled := toString .Values.podDisruptionBudget.enabled -}}
{{- if or (eq $enabled "true") (and (eq $enabled "auto") (ne .Values.mode "templates")) }}true{{ end -}}
{{- end -}}
