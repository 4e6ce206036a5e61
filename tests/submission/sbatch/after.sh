#!/bin/bash

# Parameters
#SBATCH --array=0-2%3
#SBATCH --dependency=afterok:101
#SBATCH --error=FOLDER/.robharness/submissions/NEW/jobs/%A_%a_0_log.err
#SBATCH --gpus-per-node=1
#SBATCH --job-name=robharness-learning
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=FOLDER/.robharness/submissions/NEW/jobs/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=90

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output FOLDER/.robharness/submissions/NEW/jobs/%A_%a_%t_log.out --error FOLDER/.robharness/submissions/NEW/jobs/%A_%a_%t_log.err PYTHON -P -u -m submitit.core._submit FOLDER/.robharness/submissions/NEW/jobs
