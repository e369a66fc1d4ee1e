# Who may do what in the account. Pods assume roles through pod identity: no keys in the cluster.

locals {
  put = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
  arn = { for name, bucket in module.bucket : name => bucket.s3_bucket_arn }

  pods = {
    # Steps, the orchestrator and the job that starts runs.
    run = {
      accounts = { for kind in ["starter", "orchestrator", "step"] : "artiagent-${kind}" => "artiagent" }
      list     = [local.arn["artifacts"], local.arn["derived"], local.arn["dvc"]]
      write    = ["${local.arn["artifacts"]}/zenml/*", "${local.arn["derived"]}/*"]
      add      = ["${local.arn["dvc"]}/*"]
    }
    # Clients never touch this bucket for MLflow: the server hands artifacts through.
    mlflow = {
      accounts = { mlflow = "mlflow" }
      list     = [local.arn["artifacts"]]
      write    = ["${local.arn["artifacts"]}/mlflow/*"]
      add      = []
    }
  }
}

module "pod_role" {
  source  = "terraform-aws-modules/eks-pod-identity/aws"
  version = "2.8.1"

  for_each = local.pods

  name            = "${var.name}-${each.key}"
  use_name_prefix = false

  attach_custom_policy = true
  policy_statements = [
    for statement in [
      { sid = "List", actions = ["s3:ListBucket", "s3:GetBucketLocation"], resources = each.value.list },
      {
        sid       = "Write"
        actions   = concat(local.put, ["s3:DeleteObject"])
        resources = each.value.write
      },
      {
        sid       = "Add" # no deletion: published data outlives whoever made it
        actions   = local.put
        resources = each.value.add
      },
    ] : statement if length(statement.resources) > 0
  ]

  association_defaults = { cluster_name = module.eks.cluster_name }
  associations = {
    for account, namespace in each.value.accounts : account => { namespace = namespace, service_account = account }
  }
}

module "autoscaler_role" {
  source  = "terraform-aws-modules/eks-pod-identity/aws"
  version = "2.8.1"

  name            = "${var.name}-autoscaler"
  use_name_prefix = false

  attach_cluster_autoscaler_policy = true
  cluster_autoscaler_cluster_names = [module.eks.cluster_name]

  associations = {
    this = {
      cluster_name    = module.eks.cluster_name
      namespace       = "kube-system"
      service_account = "cluster-autoscaler"
    }
  }
}

locals {
  github = var.github_repository == "" ? {} : {
    start = {
      find = {
        actions   = ["eks:DescribeCluster"]
        resources = ["arn:aws:eks:${var.region}:${local.account}:cluster/${var.name}"]
      }
      code = {
        actions   = ["s3:PutObject"]
        resources = ["${local.arn["derived"]}/store/code/*"]
      }
    }
    images = {
      login = {
        actions   = ["ecr:GetAuthorizationToken"]
        resources = ["*"]
      }
      push = {
        actions = [
          "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload", "ecr:DescribeImages",
          "ecr:GetDownloadUrlForLayer", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
        ]
        resources = [for repository in module.repository : repository.repository_arn]
      }
    }
  }
}

module "github" {
  source  = "terraform-aws-modules/iam/aws//modules/iam-oidc-provider"
  version = "6.5.0"

  create = var.github_repository != ""
  url    = "https://token.actions.githubusercontent.com"
}

module "github_role" {
  source  = "terraform-aws-modules/iam/aws//modules/iam-role"
  version = "6.5.0"

  for_each = local.github

  name            = "${var.name}-github-${each.key}"
  use_name_prefix = false

  enable_github_oidc = true
  oidc_subjects      = ["${var.github_repository}:environment:${var.github_environment}"]

  create_inline_policy      = true
  inline_policy_permissions = each.value
}
