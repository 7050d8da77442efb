#!/bin/sh
# Makes the environment that iNNvestigate is measured in: it needs TensorFlow below 2.15, and that NumPy 1.26.
#
#     bench/innvestigate_env.sh PYTHON DIRECTORY
#     export LRPFAST_INNVESTIGATE_PYTHON=DIRECTORY/bin/python
#
# PYTHON is 3.9 to 3.11.
set -eu
[ $# -eq 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
"$1" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info < (3, 12))' || {
    echo "$1 is not a Python from 3.9 to 3.11" >&2
    exit 1
}
"$1" -m venv "$2"
"$2/bin/python" -m pip install --quiet tensorflow-cpu==2.14.1 innvestigate==2.1.2
echo "LRPFAST_INNVESTIGATE_PYTHON=$2/bin/python"
