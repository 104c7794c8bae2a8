{{/* Names, labels and the parts that every role shares. */}}
{{- define "custody.fullname" -}}
{{- if contains "custody" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-custody" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "custody.selector" -}}
app.kubernetes.io/name: custody
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "custody.labels" -}}
{{ include "custody.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "custody.image" -}}
{{- with .Values.image }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}{{ end }}
{{- end }}

{{/* The effective settings of a role: its own over the defaults. Takes (list root name). */}}
{{- define "custody.role" -}}
{{- $root := index . 0 }}{{ $name := index . 1 }}
{{- mergeOverwrite (deepCopy $root.Values.defaults) (index $root.Values.roles $name) | toYaml }}
{{- end }}

{{/* custody.toml, with the places of mounted secrets. */}}
{{- define "custody.toml" -}}
{{- $config := deepCopy .Values.config }}
{{- with .Values.secrets }}
{{- if .piiKeys }}{{ $_ := set $config "pii" (merge (dict "keys_file" "/etc/custody/secrets/pii/pii.key") ($config.pii | default dict)) }}{{ end }}
{{- if .clickhouse }}{{ $_ := set $config "clickhouse" (merge (dict "password_file" "/etc/custody/secrets/clickhouse/password") ($config.clickhouse | default dict)) }}{{ end }}
{{- end }}
{{- $gateway := dict "http_listen" (printf "0.0.0.0:%d" (int .Values.ports.http)) "grpc_listen" (printf "0.0.0.0:%d" (int .Values.ports.grpc)) }}
{{- if .Values.secrets.apiKeys }}{{ $_ := set $gateway "api_keys_file" "/etc/custody/secrets/api/api-keys.json" }}{{ end }}
{{- $_ := set $config "gateway" (merge $gateway ($config.gateway | default dict)) }}
{{- $_ := set $config "telemetry" (merge (dict "listen" (printf "0.0.0.0:%d" (int .Values.ports.telemetry)) "log_format" "json") ($config.telemetry | default dict)) }}
{{- $_ := set $config "data_dir" "/var/lib/custody" }}
{{- include "custody.table" (list (list) $config) | trim }}
{{- end }}

{{/* A TOML table: (list path table). Helm's own toToml writes every number as a fraction, which Custody
refuses for a count; JSON's scalars and lists are TOML's too. */}}
{{- define "custody.table" -}}
{{- $path := index . 0 }}{{ $table := index . 1 }}
{{- range $key, $value := $table }}{{ if not (kindIs "map" $value) }}
{{ toJson $key }} = {{ toJson $value }}
{{- end }}{{ end }}
{{- range $key, $value := $table }}{{ if kindIs "map" $value }}
{{- $inner := append $path (toJson $key) }}

[{{ join "." $inner }}]
{{- include "custody.table" (list $inner $value) }}
{{- end }}{{ end }}
{{- end }}

{{/* Environment, mounts and limits of a container of Custody. Takes (list root role). */}}
{{- define "custody.container" -}}
{{- $root := index . 0 }}{{ $role := index . 1 }}
image: {{ include "custody.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
env:
  - name: CUSTODY_CONFIG
    value: /etc/custody/custody.toml
  # The pod's name: stable for as long as it holds its partitions.
  - name: CUSTODY__INSTANCE
    valueFrom: { fieldRef: { fieldPath: metadata.name } }
  {{- range $name, $value := $role.env }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
{{- with $root.Values.secrets.store }}
envFrom:
  - secretRef: { name: {{ . }} }
{{- end }}
volumeMounts:
  - { name: config, mountPath: /etc/custody/custody.toml, subPath: custody.toml, readOnly: true }
  - { name: data, mountPath: /var/lib/custody }
  - { name: tmp, mountPath: /tmp }
  {{- with $root.Values.secrets.piiKeys }}
  - { name: pii, mountPath: /etc/custody/secrets/pii, readOnly: true }
  {{- end }}
  {{- with $root.Values.secrets.apiKeys }}
  - { name: api, mountPath: /etc/custody/secrets/api, readOnly: true }
  {{- end }}
  {{- with $root.Values.secrets.clickhouse }}
  - { name: clickhouse, mountPath: /etc/custody/secrets/clickhouse, readOnly: true }
  {{- end }}
  {{- with $root.Values.secrets.kafka }}
  - { name: kafka, mountPath: /etc/custody/secrets/kafka, readOnly: true }
  {{- end }}
{{- end }}

{{/* Settings of a pod and its volumes. */}}
{{- define "custody.pod" -}}
serviceAccountName: {{ include "custody.fullname" . }}
automountServiceAccountToken: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: { type: RuntimeDefault }
volumes:
  - name: config
    configMap: { name: {{ include "custody.fullname" . }} }
  # Nothing in it is needed after a restart: positions come from log and targets.
  - name: data
    emptyDir: { sizeLimit: 1Gi }
  - name: tmp
    emptyDir: { sizeLimit: 64Mi }
  {{- with .Values.secrets.piiKeys }}
  - name: pii
    secret: { secretName: {{ . }}, defaultMode: 0440 }
  {{- end }}
  {{- with .Values.secrets.apiKeys }}
  - name: api
    secret: { secretName: {{ . }}, defaultMode: 0440 }
  {{- end }}
  {{- with .Values.secrets.clickhouse }}
  - name: clickhouse
    secret: { secretName: {{ . }}, defaultMode: 0440 }
  {{- end }}
  {{- with .Values.secrets.kafka }}
  - name: kafka
    secret: { secretName: {{ . }}, defaultMode: 0440 }
  {{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
