locals {
  tags    = { project = var.name, managed-by = "terraform" }
  account = data.aws_caller_identity.current.account_id
  system  = { "artiagent.io/pool" = "system" }
}

data "aws_caller_identity" "current" {}

module "pools" {
  source = "./modules/pools"

  file = "${path.module}/../profiles.yaml"
}

# Managed node groups and the cluster autoscaler, not Karpenter: each pool is one machine type (one H100 is sold in one
# shape), so there is nothing to choose between; the largest size of each pool, which is the largest bill, stands in the
# plan; and nothing in the cluster may start machines of its own making. Karpenter is better where many types would do.
module "eks" {
  source  = "terraform-aws-modules/eks/aws"
  version = "21.19.0"

  name                = var.name
  kubernetes_version  = var.kubernetes_version
  deletion_protection = var.protected

  vpc_id                   = module.vpc.vpc_id
  subnet_ids               = module.vpc.private_subnets
  control_plane_subnet_ids = module.vpc.intra_subnets

  endpoint_public_access       = length(var.api_cidrs) > 0
  endpoint_public_access_cidrs = var.api_cidrs

  enable_irsa                              = false # pods get their roles through pod identity
  enable_cluster_creator_admin_permissions = true

  access_entries = var.github_repository == "" ? {} : {
    starter = {
      principal_arn     = module.github_role["start"].arn
      kubernetes_groups = ["artiagent-ci"]
    }
  }

  addons = {
    coredns = {
      configuration_values = jsonencode({ nodeSelector = local.system })
    }
    eks-pod-identity-agent = {
      before_compute = true
      configuration_values = jsonencode({
        tolerations = [{ operator = "Exists" }] # on GPU nodes too
      })
    }
    kube-proxy = {}
    vpc-cni = {
      before_compute       = true
      configuration_values = jsonencode({ enableNetworkPolicy = "true" })
    }
  }

  eks_managed_node_groups = merge(
    {
      # Never zero: DNS, autoscaler, Kueue, MLflow and ZenML live here, so that every other node can go.
      system = {
        ami_type       = "AL2023_x86_64_STANDARD"
        instance_types = ["m7i.large"]
        min_size       = 2
        desired_size   = 2
        max_size       = 3
        labels         = local.system

        block_device_mappings = local.root["system"]
        metadata_options      = local.metadata
      }
    },
    {
      for name, group in module.pools.groups : name => {
        ami_type       = group.ami_type
        instance_types = group.instance_types
        capacity_type  = group.capacity_type
        min_size       = group.min_size
        desired_size   = group.desired_size
        max_size       = group.max_size
        labels         = group.labels
        taints         = group.taints

        block_device_mappings = local.root[name]
        metadata_options      = local.metadata
        cloudinit_pre_nodeadm = group.nodes
      }
    },
  )
}

locals {
  # Pods do not reach the node's credentials: one hop, tokens only.
  metadata = { http_endpoint = "enabled", http_tokens = "required", http_put_response_hop_limit = 1 }

  volumes = merge({ system = 60 }, { for name, group in module.pools.groups : name => group.volume })
  root = {
    for name, size in local.volumes : name => {
      root = {
        device_name = "/dev/xvda"
        ebs = {
          volume_size           = size
          volume_type           = "gp3"
          encrypted             = true
          delete_on_termination = true
        }
      }
    }
  }

  hints = merge([
    for name, group in module.pools.groups : {
      for key, value in group.scale_from_zero : "${name} ${key}" => { group = name, key = key, value = value }
    }
  ]...)
}

# EKS does not hand a node group's tags on to its autoscaling group, and an empty group has no node to look at.
resource "aws_autoscaling_group_tag" "scale_from_zero" {
  for_each = local.hints

  autoscaling_group_name = module.eks.eks_managed_node_groups[each.value.group].node_group_autoscaling_group_names[0]

  tag {
    key                 = "k8s.io/cluster-autoscaler/node-template/${each.value.key}"
    value               = each.value.value
    propagate_at_launch = false
  }
}
