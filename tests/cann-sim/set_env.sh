# Sourced, as CANN's own set_env.sh is: `source target/cann-sim/set_env.sh [--cxx_abi=0|1]`. What follows runs on the
# simulator, which is a test double and computes on the CPU.
_aquila_sim=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")" && pwd)
_aquila_abi=1
[ "${1:-}" = --cxx_abi=0 ] && _aquila_abi=0
export ASCEND_HOME_PATH=$_aquila_sim ASCEND_TOOLKIT_HOME=$_aquila_sim
export ASCEND_OPP_PATH=$_aquila_sim/opp ASCEND_AICPU_PATH=$_aquila_sim
export ATB_HOME_PATH=$_aquila_sim/atb/cxx_abi_$_aquila_abi
export LD_LIBRARY_PATH=$_aquila_sim/lib64:$ATB_HOME_PATH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
unset _aquila_sim _aquila_abi
