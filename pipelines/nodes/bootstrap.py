"""First lines of every pod: get the code as ZenML does, then become the node. The image has none of our code.

python -c "<this file>" ARGUMENTS-OF-THE-ENTRY-POINT ...
"""

import sys

from zenml.entrypoints.base_entrypoint_configuration import BaseEntrypointConfiguration
from zenml.execution.pipeline.utils import prevent_pipeline_execution
from zenml.step_operators.step_operator_entrypoint_configuration import StepOperatorEntrypointConfiguration


class Code(StepOperatorEntrypointConfiguration):
    # The pipeline's: to ask for the step's would say that the step runs, which is for the first pod to say.
    docker_settings = BaseEntrypointConfiguration.docker_settings


with prevent_pipeline_execution():
    Code(sys.argv[1:]).prepare_code_environment()
    from pipelines.nodes.entrypoint import main

    main(sys.argv[1:])
