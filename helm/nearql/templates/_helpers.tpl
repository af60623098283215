{{- define "nearql.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* 47 characters leave room for "-headless", "-certificate", and for the pod's ordinal. */}}
{{- define "nearql.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 47 | trimSuffix "-" }}
{{- else if contains (include "nearql.name" .) .Release.Name }}
{{- .Release.Name | trunc 47 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "nearql.name" .) | trunc 47 | trimSuffix "-" }}
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

{{- define "nearql.scheme" -}}
{{ ternary "https" "http" (ne .Values.tls.existingSecret "") }}
{{- end }}

{{- define "nearql.probe" -}}
httpGet:
  path: {{ index . 1 }}
  port: http
  scheme: {{ include "nearql.scheme" (index . 0) | upper }}
timeoutSeconds: 5
{{- end }}

{{/* Every node by name: those that vote, and the others. */}}
{{- define "nearql.nodes" -}}
{{- $names := splitList "," (include "nearql.voters" .) }}
{{- $name := include "nearql.fullname" . }}
{{- range $number := until (int .Values.members.replicas) }}
{{- $names = append $names (printf "%s-member-%d" $name $number) }}
{{- end }}
{{- range $number := until (int .Values.gpu.replicas) }}
{{- $names = append $names (printf "%s-gpu-%d" $name $number) }}
{{- end }}
{{- join "," $names }}
{{- end }}

{{/* ca.pem, <node>.pem and <node>.key as files: of one Secret, or of those that cert-manager makes. */}}
{{- define "nearql.nodeFiles" -}}
- name: nodes
  {{- if .Values.cluster.certManager.enabled }}
  projected:
    defaultMode: 0440
    sources:
      {{- range $number, $node := splitList "," (include "nearql.nodes" .) }}
      - secret:
          name: {{ $node }}-certificate
          items:
            {{- if not $number }}
            - {key: ca.crt, path: ca.pem}
            {{- end }}
            - {key: tls.crt, path: {{ $node }}.pem}
            - {key: tls.key, path: {{ $node }}.key}
      {{- end }}
  {{- else }}
  secret:
    secretName: {{ include "nearql.certificates" . }}
    defaultMode: 0440
  {{- end }}
{{- end }}

{{/* Peers that may connect as clients. */}}
{{- define "nearql.clients" -}}
{{- with .Values.networkPolicy.from }}
{{- toYaml . }}
{{- else -}}
- podSelector:
    matchLabels:
      nearql-client: "true"
{{- end }}
{{- end }}
