{{/*
What contradicts itself, or would lose notifications: each refused with one sentence that says what to do.
Types and unknown keys are values.schema.json's; what only the relay can judge is `suki-relay check`'s.
*/}}
{{- define "suki-relay.refuse" -}}
{{- include "suki-relay.refuse.mode" . -}}
{{- include "suki-relay.refuse.secrets" . -}}
{{- include "suki-relay.refuse.spool" . -}}
{{- include "suki-relay.refuse.addresses" . -}}
{{- include "suki-relay.refuse.stop" . -}}
{{- include "suki-relay.refuse.monitors" . -}}
{{- end -}}

{{- define "suki-relay.refuse.mode" -}}
{{- $mode := .Values.mode -}}
{{- if eq $mode "templates" -}}
{{- if include "suki-relay.budget" . -}}
{{- fail "podDisruptionBudget.enabled: with mode templates the pods are the parent chart's; leave it at auto and make the budget there" -}}
{{- end -}}
{{- if not (kindIs "invalid" .Values.replicas) -}}
{{- fail "replicas: with mode templates the pods are the parent chart's; take it out and set their number there" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.app.image (ne $mode "sidecar") -}}
{{- fail (printf "app.image: mode %s has no container beside the relay; take app.image out, or set mode: sidecar" $mode) -}}
{{- end -}}
{{- if eq $mode "standalone" -}}
{{- range .Values.config.targets -}}
{{- $url := (default (default dict .grpc) .http).url | toString -}}
{{- if regexMatch "^https?://(127\\.|localhost[:/]|localhost$|\\[::1\\])" $url -}}
{{- fail (printf "config.targets: %s is at %s, but with mode standalone nothing else is in the pod; give it the URL of a Service, or set mode: sidecar" .name $url) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "suki-relay.refuse.secrets" -}}
{{- $tls := default dict (default dict .Values.config.listen).tls -}}
{{- if and .Values.tls.existingSecret .Values.tls.certManager.enabled -}}
{{- fail "tls: existingSecret and certManager.enabled both say where the certificate is; keep one of them" -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.issuerRef.name: cert-manager needs to know who signs; name an Issuer or ClusterIssuer" -}}
{{- end -}}
{{- if and (include "suki-relay.tlsSecretName" .) (or $tls.certificate $tls.private_key $tls.self_signed) -}}
{{- fail "config.listen.tls: tls.existingSecret or tls.certManager brings the certificate already; take certificate, private_key and self_signed out, or take those out" -}}
{{- end -}}
{{- $operator := default dict (default dict .Values.config.admin).operator -}}
{{- if and .Values.operator.existingSecret $operator.token -}}
{{- fail "config.admin.operator.token: operator.existingSecret brings the token already; take one of them out" -}}
{{- end -}}
{{- if and (not .Values.operator.enabled) (or .Values.operator.existingSecret $operator) -}}
{{- fail "operator.enabled is false, but operator.existingSecret or config.admin.operator is set; take those out, or enable it" -}}
{{- end -}}
{{- $references := list $operator.token (default dict (default dict .Values.config.spool).postgres).url -}}
{{- range .Values.config.sources }}{{ $references = concat $references .secrets }}{{ end -}}
{{- range .Values.config.targets -}}
{{- $way := default (default dict .grpc) .http -}}
{{- $references = concat (append $references $way.bearer_token) (values (default dict $way.headers)) -}}
{{- $references = concat $references (default list (default dict $way.sign).secrets) -}}
{{- end -}}
{{- range $references -}}
{{- if and (kindIs "map" .) (hasKey . "env") -}}
{{- fail (printf "config: the reference env: %s would need a secret in the environment, where it leaks; write file: and mount its Secret with signing or files" .env) -}}
{{- end -}}
{{- end -}}
{{- $taken := list "/etc/suki-relay/config" "/etc/suki-relay/secrets" "/etc/suki-relay/tls" "/etc/suki-relay/operator" -}}
{{- range .Values.files -}}
{{- if eq (empty .existingSecret) (empty .existingConfigMap) -}}
{{- fail (printf "files: %s needs either existingSecret or existingConfigMap, and not both" .path) -}}
{{- end -}}
{{- if has (trimSuffix "/" .path) $taken -}}
{{- fail (printf "files: something is mounted at %s already; choose another path" .path) -}}
{{- end -}}
{{- $taken = append $taken (trimSuffix "/" .path) -}}
{{- end -}}
{{- end -}}

{{- define "suki-relay.refuse.spool" -}}
{{- $spool := default dict .Values.config.spool -}}
{{- if and $spool.disk $spool.postgres (not (default dict $spool.disk).fallback) -}}
{{- fail "config.spool: disk and postgres both say where notifications are kept; keep one of them, or say disk.fallback: true" -}}
{{- end -}}
{{- if include "suki-relay.onDisk" . -}}
{{- $disk := (include "suki-relay.config" . | fromYaml).spool.disk -}}
{{- if contains "${" $disk.capacity -}}
{{- fail "config.spool.disk.capacity: the volume's size is held against it, so it cannot come from the environment; write it out" -}}
{{- end -}}
{{- if or (contains "${" $disk.path) (not (hasPrefix "/" $disk.path)) -}}
{{- fail (printf "config.spool.disk.path: the volume is mounted at it, which %s is no whole path for; write it out, from / on" $disk.path) -}}
{{- end -}}
{{- if not .Values.persistence.enabled -}}
{{- if not .Values.persistence.ephemeralAcknowledged -}}
{{- fail "persistence.enabled is false: notifications that were answered 200 would be lost with the pod; enable it, or say persistence.ephemeralAcknowledged: true" -}}
{{- end -}}
{{- else -}}
{{- $capacity := $disk.capacity -}}
{{- $size := .Values.persistence.size -}}
{{- if gt (mul 5 (include "suki-relay.kibibytes" $capacity | int64)) (mul 4 (include "suki-relay.kibibytes" $size | int64)) -}}
{{- fail (printf "persistence.size: config.spool.disk.capacity, %s, must fit in four fifths of %s; make the volume larger or the capacity smaller" $capacity $size) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "suki-relay.refuse.addresses" -}}
{{- $config := include "suki-relay.config" . | fromYaml -}}
{{- range $key, $address := dict "listen" $config.listen.address "admin" $config.admin.address -}}
{{- if not (regexMatch "^([0-9.]+|\\[[0-9a-fA-F:]+\\]):[0-9]+$" $address) -}}
{{- fail (printf "config.%s.address: %s is no IP address and port, which Services and probes are made from; write it as 0.0.0.0:8443" $key $address) -}}
{{- end -}}
{{- if regexMatch "^(127\\.|\\[::1\\])" $address -}}
{{- fail (printf "config.%s.address: %s is reached from inside the pod only, and not by Services and probes; listen at 0.0.0.0" $key $address) -}}
{{- end -}}
{{- if lt (regexFind "[0-9]+$" $address | int) 1024 -}}
{{- fail (printf "config.%s.address: the relay runs without privileges and cannot listen at %s; take a port from 1024 on, service.port may be any" $key $address) -}}
{{- end -}}
{{- end -}}
{{- if eq (include "suki-relay.listenPort" .) (include "suki-relay.adminPort" .) -}}
{{- fail "config: listen.address and admin.address have the same port; change one of them" -}}
{{- end -}}
{{- end -}}

{{- define "suki-relay.refuse.stop" -}}
{{- $config := include "suki-relay.config" . | fromYaml -}}
{{- if contains "${" $config.drain.deadline -}}
{{- fail "config.drain.deadline: terminationGracePeriodSeconds follows from it, so it cannot come from the environment; write it out" -}}
{{- end -}}
{{- $needed := include "suki-relay.stopSeconds" . | int -}}
{{- if and .Values.terminationGracePeriodSeconds (lt (int .Values.terminationGracePeriodSeconds) $needed) -}}
{{- fail (printf "terminationGracePeriodSeconds: %d is too short, config.drain.deadline and app.stopSeconds need %d; take it out, or lower those" (int .Values.terminationGracePeriodSeconds) $needed) -}}
{{- end -}}
{{- end -}}

{{- define "suki-relay.refuse.monitors" -}}
{{- if and .Values.metrics.podMonitor.enabled .Values.metrics.serviceMonitor.enabled -}}
{{- fail "metrics: with podMonitor and serviceMonitor both enabled everything is scraped twice; keep one of them" -}}
{{- end -}}
{{- end -}}
