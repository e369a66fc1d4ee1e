variable "name" {
  description = "Name of the cluster; the first part of every other name."
  type        = string
  default     = "artiagent"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name: 3 to 20 lower-case letters, digits and hyphens; it becomes part of bucket and role names."
  }
}

variable "region" {
  description = "Region that offers the GPU machines of modules/pools (p5 for the pools as declared)."
  type        = string
}

variable "availability_zones" {
  description = "Zones of the nodes, two or three. GPU machines are not offered in every zone of a region."
  type        = list(string)

  validation {
    condition     = contains([2, 3], length(var.availability_zones))
    error_message = "availability_zones: name two or three zones; the cluster and the databases need two."
  }
}

variable "cidr" {
  description = "Addresses of the network. A /16 leaves room for one address per pod."
  type        = string
  default     = "10.40.0.0/16"
}

variable "kubernetes_version" {
  description = "Minor version of the cluster. The cluster autoscaler in infra/helm must be of the same minor version."
  type        = string
  default     = "1.35"
}

variable "api_cidrs" {
  description = "Networks from which the Kubernetes API can be reached besides the cluster's; an IAM identity is needed as well."
  type        = list(string)
}

variable "github_repository" {
  description = "OWNER/NAME of the repository whose workflows may push images and start runs; empty: none."
  type        = string
  default     = ""

  validation {
    condition     = var.github_repository == "" || can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.github_repository))
    error_message = "github_repository: expected OWNER/NAME."
  }
}

variable "github_environment" {
  description = "GitHub environment in which those workflows run; who may deploy to it is decided there."
  type        = string
  default     = "artiagent"
}

variable "database_class" {
  description = "Instance class of the two databases (MLflow: PostgreSQL, ZenML: MySQL)."
  type        = string
  default     = "db.t4g.small"
}

variable "password_version" {
  description = "Raise by one to give both databases new passwords; then renew the Kubernetes secrets."
  type        = number
  default     = 1
}

variable "protected" {
  description = "Refuse to destroy cluster, databases and filled buckets. Set to false and apply before a teardown."
  type        = bool
  default     = true
}
