#include "attention_task.h"

namespace specgrove {

void attention_task_plain(const AttentionTask& task) { attention_task(task); }

}  // namespace specgrove
