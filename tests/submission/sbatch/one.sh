#!/bin/bash

# Parameters
#SBATCH --error=FOLDER/.robharness/submissions/NEW/jobs/%j_0_log.err
#SBATCH --job-name=robharness-toys
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=FOLDER/.robharness/submissions/NEW/jobs/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=30

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output FOLDER/.robharness/submissions/NEW/jobs/%j_%t_log.out --error FOLDER/.robharness/submissions/NEW/jobs/%j_%t_log.err PYTHON -P -u -m submitit.core._submit FOLDER/.robharness/submissions/NEW/jobs
