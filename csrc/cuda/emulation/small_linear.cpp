#include "../small_linear.cu"
