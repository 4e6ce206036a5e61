#!/bin/bash

# Parameters
#SBATCH --error=FOLDER/.robharness/submissions/NEW/jobs/%j_0_log.err
#SBATCH --gpus-per-node=1
#SBATCH --job-name=robharness-learning-training
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=FOLDER/.robharness/submissions/NEW/jobs/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=90

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output FOLDER/.robharness/submissions/NEW/jobs/%j_%t_log.out --error FOLDER/.robharness/submissions/NEW/jobs/%j_%t_log.err PYTHON -P -u -m submitit.core._submit FOLDER/.robharness/submissions/NEW/jobs
