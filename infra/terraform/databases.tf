# MLflow on PostgreSQL, ZenML on MySQL (it knows no other). Passwords are made while Terraform runs, go into Secrets
# Manager and from there into the database: all of it write-only or ephemeral, so neither state nor plan has them.

locals {
  databases = {
    mlflow = { engine = "postgres", version = "17", family = "postgres17", port = 5432 }
    zenml  = { engine = "mysql", version = "8.4", family = "mysql8.4", port = 3306 }
  }
}

ephemeral "random_password" "database" {
  for_each = local.databases

  length  = 40
  special = false # it becomes part of a URL
}

resource "aws_secretsmanager_secret" "database" {
  for_each = local.databases

  name                    = "${var.name}/database/${each.key}"
  description             = "Password of user ${each.key}"
  recovery_window_in_days = var.protected ? 30 : 0
}

resource "aws_secretsmanager_secret_version" "database" {
  for_each = local.databases

  secret_id                = aws_secretsmanager_secret.database[each.key].id
  secret_string_wo         = ephemeral.random_password.database[each.key].result
  secret_string_wo_version = var.password_version
}

# Read back, so that a database that is made in a later run than its secret gets the password that was kept.
ephemeral "aws_secretsmanager_secret_version" "database" {
  for_each = local.databases

  secret_id = aws_secretsmanager_secret_version.database[each.key].secret_id
}

module "database_access" {
  source  = "terraform-aws-modules/security-group/aws"
  version = "5.3.0"

  for_each = local.databases

  name        = "${var.name}-${each.key}"
  description = "Nodes of ${var.name} to ${each.value.engine}"
  vpc_id      = module.vpc.vpc_id

  ingress_with_source_security_group_id = [{
    from_port                = each.value.port
    to_port                  = each.value.port
    protocol                 = "tcp"
    source_security_group_id = module.eks.node_security_group_id
  }]
}

module "database" {
  source  = "terraform-aws-modules/rds/aws"
  version = "7.2.0"

  for_each = local.databases

  identifier            = "${var.name}-${each.key}"
  engine                = each.value.engine
  engine_version        = each.value.version
  family                = each.value.family
  major_engine_version  = each.value.version
  instance_class        = var.database_class
  allocated_storage     = 20
  max_allocated_storage = 200
  storage_type          = "gp3"
  storage_encrypted     = true

  db_name                     = each.key
  username                    = each.key
  port                        = tostring(each.value.port)
  manage_master_user_password = false
  password_wo                 = ephemeral.aws_secretsmanager_secret_version.database[each.key].secret_string
  password_wo_version         = var.password_version

  create_db_subnet_group = true
  subnet_ids             = module.vpc.intra_subnets
  vpc_security_group_ids = [module.database_access[each.key].security_group_id]
  publicly_accessible    = false

  backup_retention_period = 7
  deletion_protection     = var.protected
  skip_final_snapshot     = !var.protected
}
