{{- define "nearql.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* 53 characters leave room for "-headless" and for the pod's ordinal. */}}
{{- define "nearql.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- else if contains (include "nearql.name" .) .Release.Name }}
{{- .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "nearql.name" .) | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "nearql.selector" -}}
app.kubernetes.io/name: {{ include "nearql.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "nearql.labels" -}}
{{ include "nearql.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The pods that vote, by name: those that the StatefulSet has. */}}
{{- define "nearql.voters" -}}
{{- $names := list }}
{{- range $number := until (int .Values.cluster.voters) }}
{{- $names = append $names (printf "%s-%d" (include "nearql.fullname" $) $number) }}
{{- end }}
{{- join "," $names }}
{{- end }}

{{- define "nearql.domain" -}}
{{ include "nearql.fullname" . }}-headless.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "nearql.certificates" -}}
{{- default (printf "%s-nodes" (include "nearql.fullname" .)) .Values.cluster.existingSecret }}
{{- end }}

{{- define "nearql.probe" -}}
httpGet:
  path: {{ . }}
  port: http
timeoutSeconds: 5
{{- end }}
