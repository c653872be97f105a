{{- /* What the operator's pods and the test pod have in common. */ -}}

{{- define "vmcp-operator.image" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{- /* As the Pod Security Standard "restricted" asks for it. */ -}}
{{- define "vmcp-operator.pod-security-context" -}}
runAsNonRoot: true
{{- $onOpenShift := .Capabilities.APIVersions.Has "security.openshift.io/v1" }}
{{- if or (eq .Values.podUser "fixed") (and (eq .Values.podUser "auto") (not $onOpenShift)) }}
runAsUser: 65532
runAsGroup: 65532
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "vmcp-operator.container-security-context" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "vmcp-operator.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: VMCP_GATEWAY_IMAGE
  value: "{{ .Values.gatewayImage.repository }}:{{ .Values.gatewayImage.tag | default .Chart.AppVersion }}"
- name: VMCP_LEASE_NAME
  value: {{ include "vmcp-operator.name" . }}
{{- with .Values.watchNamespaces }}
- name: VMCP_WATCH_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
{{- with .Values.allowedImagePrefixes }}
- name: VMCP_ALLOWED_IMAGE_PREFIXES
  value: {{ join "," . | quote }}
{{- end }}
{{- with .Values.secretLabel }}
- name: VMCP_SECRET_LABEL
  value: {{ . | quote }}
{{- end }}
- name: VMCP_LOG
  value: {{ .Values.log.filter | quote }}
- name: VMCP_LOG_FORMAT
  value: {{ .Values.log.format }}
- name: VMCP_POD_USER
  value: {{ .Values.podUser }}
- name: VMCP_NPM_IMAGE
  value: {{ .Values.serverImages.npm | quote }}
- name: VMCP_PYPI_IMAGE
  value: {{ .Values.serverImages.pypi | quote }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}
