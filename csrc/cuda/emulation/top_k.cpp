#include "../top_k.cu"
