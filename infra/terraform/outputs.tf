output "kubeconfig" {
  description = "Command that adds the cluster to kubectl under the name that infra/stacks uses."
  value       = "aws eks update-kubeconfig --region ${var.region} --name ${module.eks.cluster_name} --alias artiagent"
}

output "buckets" {
  description = "Bucket of each purpose."
  value       = { for name, bucket in module.bucket : name => bucket.s3_bucket_id }
}

output "registries" {
  description = "Where the two images go."
  value       = { for name, repository in module.repository : name => repository.repository_url }
}

output "helm_env" {
  description = "What infra/helm/helmfile.yaml.gotmpl asks for: terraform output -raw helm_env > helm.env"
  value       = <<-EOT
    export CLUSTER=${module.eks.cluster_name}
    export REGION=${var.region}
    export MLFLOW_DATABASE=${module.database["mlflow"].db_instance_address}
    export MLFLOW_BUCKET=${module.bucket["artifacts"].s3_bucket_id}
    export ZENML_DATABASE=${module.database["zenml"].db_instance_address}
  EOT
}

output "run_env" {
  description = "Settings of runs, none of them secret: terraform output -raw run_env > ../kubernetes/run.env"
  value       = <<-EOT
    ARTIAGENT_CODE=SHA256
    ARTIAGENT_DATA=s3://${module.bucket["dvc"].s3_bucket_id}/data
    ARTIAGENT_IMAGE_CPU=${module.repository["cpu"].repository_url}:REVISION
    ARTIAGENT_IMAGE_CUDA=${module.repository["cuda"].repository_url}:REVISION
    ARTIAGENT_STORE=s3://${module.bucket["derived"].s3_bucket_id}/store
    AWS_DEFAULT_REGION=${var.region}
    MLFLOW_TRACKING_URI=http://mlflow.mlflow.svc.cluster.local
    RUN_CONFIG=configs/paper.yaml
    RUN_STACK=artiagent-kubernetes
    ZENML_STORE_URL=http://zenml.zenml.svc.cluster.local
  EOT
}

output "secrets" {
  description = "Secrets Manager entries of the databases' passwords; docs/cluster.md copies them into the cluster."
  value       = { for name, secret in aws_secretsmanager_secret.database : name => secret.name }
}

output "roles" {
  description = "Roles of the workflows: variables AWS_ROLE_START and AWS_ROLE_IMAGES of the GitHub environment."
  value       = { for name, role in module.github_role : name => role.arn }
}
