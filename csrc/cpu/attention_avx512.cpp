#include "attention_task.h"

namespace specgrove {

void attention_task_avx512(const AttentionTask& task) { attention_task(task); }

}  // namespace specgrove
