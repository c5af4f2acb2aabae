#include "../embedding.cu"
