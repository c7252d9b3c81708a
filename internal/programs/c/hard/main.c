// hard does what programs seldom do and a ring-0 core easily gets wrong, and prints a line for each.
#include "check_main.h"
