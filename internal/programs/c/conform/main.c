// conform prints what Linux does in many small cases, a line each.
#include "check_main.h"
