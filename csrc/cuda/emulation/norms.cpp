#include "../norms.cu"
