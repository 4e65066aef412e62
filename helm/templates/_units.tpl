{{/* A duration of the relay's config, as 1h30m or 250ms, in milliseconds. */}}
{{- define "suki-relay.milliseconds" -}}
{{- $sum := 0 -}}
{{- $factors := dict "h" 3600000 "m" 60000 "s" 1000 "ms" 1 -}}
{{- range regexFindAll "[0-9]+(ms|h|m|s)" . -1 -}}
{{- $sum = add $sum (mul (regexFind "[0-9]+" . | int64) (get $factors (regexFind "[a-z]+" .))) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* The same in seconds, rounded up. */}}
{{- define "suki-relay.seconds" -}}
{{- div (add (include "suki-relay.milliseconds" . | int64) 999) 1000 -}}
{{- end -}}

{{/* A size of the relay's config (4GiB) or of Kubernetes (8Gi), in KiB, rounded down. */}}
{{- define "suki-relay.kibibytes" -}}
{{- $factors := dict "" 1 "B" 1 "k" 1000 "kB" 1000 "Ki" 1024 "KiB" 1024 "M" 1000000 "MB" 1000000 "Mi" 1048576 "MiB" 1048576 "G" 1000000000 "GB" 1000000000 "Gi" 1073741824 "GiB" 1073741824 "T" 1000000000000 "TB" 1000000000000 "Ti" 1099511627776 "TiB" 1099511627776 -}}
{{- div (mul (regexFind "^[0-9]+" . | int64) (get $factors (regexFind "[A-Za-z]*$" .))) 1024 -}}
{{- end -}}
