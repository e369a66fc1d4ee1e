# Node groups from infra/profiles.yaml: names, labels, taints, spot and sizes are declared there and nowhere else.
# Added here is only what the cloud calls things: which machine a pool is made of. No provider, no state: a function.

terraform {
  required_version = ">= 1.11.1, < 2.0.0"
}

variable "file" {
  description = "Path of profiles.yaml."
  type        = string
}

locals {
  # vCPUs and GiB as sold; profiles.yaml declares what of them pods can use. local_nvme in GB.
  machines = {
    cpu        = { type = "m7i.xlarge", vcpus = 4, memory = 16, gpu = "", gpus = 0, local_nvme = 0 }
    cpu-large  = { type = "m7i.4xlarge", vcpus = 16, memory = 64, gpu = "", gpus = 0, local_nvme = 0 }
    gpu-1x80gb = { type = "p5.4xlarge", vcpus = 16, memory = 256, gpu = "H100", gpus = 1, local_nvme = 3840 }
    gpu-8x80gb = { type = "p5.48xlarge", vcpus = 192, memory = 2048, gpu = "H100", gpus = 8, local_nvme = 30720 }
  }

  declared = yamldecode(file(var.file)).pools
  pools = {
    for name, pool in local.declared : name => merge({ gpu = "", gpus = 0, spot = false, labels = {} }, pool, {
      taints                                               = [for taint in try(pool.taints, []) : merge({ value = "", effect = "NoSchedule" }, taint)]
    })
  }

  effects = { NoSchedule = "NO_SCHEDULE", PreferNoSchedule = "PREFER_NO_SCHEDULE", NoExecute = "NO_EXECUTE" }

  # Instance stores as one striped file system below kubelet and containerd: images, code, chunks under way.
  striped = [{
    content_type = "application/node.eks.aws"
    content      = <<-EOT
      ---
      apiVersion: node.eks.aws/v1alpha1
      kind: NodeConfig
      spec:
        instance:
          localStorage:
            strategy: RAID0
    EOT
  }]

  groups = {
    for name, pool in local.pools : name => {
      ami_type       = pool.gpus > 0 ? "AL2023_x86_64_NVIDIA" : "AL2023_x86_64_STANDARD"
      instance_types = [local.machines[name].type]
      capacity_type  = pool.spot ? "SPOT" : "ON_DEMAND"
      min_size       = 0
      desired_size   = 0
      max_size       = pool.most

      # The accelerator label tells the autoscaler to wait for the driver before it adds yet another node.
      labels = merge(
        pool.labels,
        pool.gpus > 0 ? { "k8s.amazonaws.com/accelerator" = "nvidia-${lower(pool.gpu)}" } : {},
      )

      taints = {
        for taint in pool.taints : replace(taint.key, "/[^a-z0-9]/", "-") => {
          key    = taint.key
          value  = taint.value
          effect = local.effects[taint.effect]
        }
      }

      # GPU machines keep pods' files on their own NVMe; kubelet keeps a tenth of any disk free.
      volume = local.machines[name].local_nvme > 0 ? 100 : ceil(pool.disk / 0.85)
      nodes  = local.machines[name].local_nvme > 0 ? local.striped : []

      # What a node that does not exist yet would offer: the autoscaler reads it to scale up from zero.
      scale_from_zero = merge(
        { "resources/ephemeral-storage" = "${pool.disk}Gi" },
        pool.gpus > 0 ? { "resources/nvidia.com/gpu" = tostring(pool.gpus) } : {},
        { for key, value in pool.labels : "label/${key}" => value },
        { for taint in pool.taints : "taint/${taint.key}" => "${taint.value}:${taint.effect}" },
      )
    }
    if contains(keys(local.machines), name)
  }
}

output "groups" {
  description = "One entry per pool."
  value       = local.groups

  precondition {
    condition     = length(setsubtract(keys(local.pools), keys(local.machines))) == 0
    error_message = "A pool of infra/profiles.yaml has no machine: add it to local.machines in modules/pools/main.tf."
  }

  precondition {
    condition = alltrue([
      for name, pool in local.pools : pool.cpu < local.machines[name].vcpus && pool.memory < local.machines[name].memory &&
      pool.gpus == local.machines[name].gpus && pool.gpu == local.machines[name].gpu
      if contains(keys(local.machines), name)
    ])
    error_message = "A pool of infra/profiles.yaml promises what its machine in modules/pools/main.tf has not: CPU, memory, GPUs."
  }
}

output "machines" {
  description = "What the pools' machines have."
  value       = { for name, machine in local.machines : name => machine if contains(keys(local.pools), name) }
}
