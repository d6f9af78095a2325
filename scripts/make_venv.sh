#!/usr/bin/env bash
# Creates a virtual environment and installs requirements there, once; matrix.py calls it for each of its stacks.
#
#   bash scripts/make_venv.sh FOLDER PYTHON REQUIREMENTS_FILE
#
# It is created again when PYTHON or the requirements change, when its Python no longer runs, and when an earlier call did
# not finish. Exit status: 0, 2 for a folder that was not created by this script, else that of venv or pip.

# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

header_as_help "$0" "$@"
(( $# == 3 )) || die "usage: bash scripts/make_venv.sh FOLDER PYTHON REQUIREMENTS_FILE"
venv=$1 base=$2 ready="$2 $(cksum <"$3")" reason=''
require_own_venv "remove it, or name another folder"
if [[ -e $venv/.electra-ready && $(<"$venv/.electra-ready") == "$ready" ]] && venv_runs; then exit 0; fi
[[ ! -e $venv ]] || reason="it is incomplete, or its Python or its requirements have changed"
take_lock "$base"
create_venv
fill_venv "$ready" "$3"
