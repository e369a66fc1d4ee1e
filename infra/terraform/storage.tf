# The object store is the only thing that machines share (ARTIAGENT_STORE), so there is no file system to pay for.

locals {
  # Days for which replaced and deleted versions can still be brought back.
  buckets = {
    artifacts = { keep = 30 } # zenml/: artifacts of steps; mlflow/: artifacts of runs
    derived   = { keep = 7 }  # store/: scenes, jobs, pairs, checkpoints under way, code: all of it can be made again
    dvc       = { keep = 90 } # pinned and published data sets: nobody but people deletes here
  }
}

module "bucket" {
  source  = "terraform-aws-modules/s3-bucket/aws"
  version = "5.15.4"

  for_each = local.buckets

  bucket        = "${var.name}-${local.account}-${each.key}"
  force_destroy = !var.protected

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
  object_ownership        = "BucketOwnerEnforced"

  attach_deny_insecure_transport_policy = true

  versioning = { enabled = true }

  server_side_encryption_configuration = {
    rule = {
      apply_server_side_encryption_by_default = { sse_algorithm = "AES256" }
    }
  }

  lifecycle_rule = [
    {
      id      = "thrift"
      enabled = true

      abort_incomplete_multipart_upload_days = 3

      noncurrent_version_expiration = { days = each.value.keep }

      transition = [{ days = 30, storage_class = "INTELLIGENT_TIERING" }]
    },
  ]
}

module "repository" {
  source  = "terraform-aws-modules/ecr/aws"
  version = "3.2.0"

  for_each = toset(["cpu", "cuda"])

  repository_name                 = "${var.name}/${each.key}"
  repository_image_tag_mutability = "IMMUTABLE"
  repository_image_scan_on_push   = true
  repository_force_delete         = !var.protected

  repository_lifecycle_policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "The ten latest images"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 10 }
      action       = { type = "expire" }
    }]
  })
}
