# One NAT gateway: nodes use the internet for the charts' images and for model hubs only.
# S3 goes through the gateway endpoint, which costs nothing; terabytes of shards through NAT would.

module "vpc" {
  source  = "terraform-aws-modules/vpc/aws"
  version = "6.6.0"

  name = var.name
  cidr = var.cidr
  azs  = var.availability_zones

  private_subnets = [for i in range(length(var.availability_zones)) : cidrsubnet(var.cidr, 3, i)]
  intra_subnets   = [for i in range(length(var.availability_zones)) : cidrsubnet(var.cidr, 8, 240 + i)]
  public_subnets  = [for i in range(length(var.availability_zones)) : cidrsubnet(var.cidr, 8, 248 + i)]

  enable_nat_gateway = true
  single_nat_gateway = true
}

module "endpoints" {
  source  = "terraform-aws-modules/vpc/aws//modules/vpc-endpoints"
  version = "6.6.0"

  vpc_id = module.vpc.vpc_id

  endpoints = {
    s3 = {
      service         = "s3"
      service_type    = "Gateway"
      route_table_ids = module.vpc.private_route_table_ids
    }
  }
}
