// `ai.edgec::LutGemv` as a custom op of ONNX Runtime: y = x W^T, W in bit planes (lookup.h).
//
// Inputs: x float32 [.., K], planes uint8, scale float16, zero points uint8 (one, or one for each block). Attributes:
// outputs, bits, block_size, tables (bits of an entry: 8, 16 or 32). Threads are those of the session.
//
// `ai.edgec::LutDequant`, the weights of the same planes, float32 [K, outputs]: without x, and without `tables`.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lookup.h"
#include "ort_api.h"

#define PANELS_OF_A_TASK 4
#define PANELS_TO_DEQUANTISE 16  // a page of each row of the result
#define ALONE (2 << 20)  // bits of weights times tokens: some 8 us, in which waking a thread brings nothing

typedef struct {
  const OrtApi* api;
  const LookupKernels* kernels;
  int64_t outputs, bits, block;
  LookupKind kind;  // of tables
} Kernel;

typedef struct {
  const Kernel* kernel;
  const LookupLinear* linear;
  const LookupTables* tables;
  int64_t tokens, panels;
  float* y;
} Work;

#define TRY(call)                  \
  do {                             \
    OrtStatus* status = (call);    \
    if (status) return status;     \
  } while (0)

static OrtStatus* refuse(const OrtApi* api, const char* what) {
  return ort_CreateStatus(api)(ORT_INVALID_ARGUMENT, what);
}

// What both ops are made of.
static OrtStatus* create(const OrtApi* api, const void* info, LookupKind kind, void** made) {
  Kernel k = {.api = api, .kernels = lookup_best(), .kind = kind};
  TRY(ort_KernelInfoGetAttribute_int64(api)(info, "outputs", &k.outputs));
  TRY(ort_KernelInfoGetAttribute_int64(api)(info, "bits", &k.bits));
  TRY(ort_KernelInfoGetAttribute_int64(api)(info, "block_size", &k.block));
  const char* forced = getenv("EDGEC_LOOKUP_KERNEL");  // for tests and benchmarks
  if (forced && *forced) k.kernels = lookup_named(forced);
  if (!k.kernels) return refuse(api, "LutGemv: this processor cannot run the kernel of EDGEC_LOOKUP_KERNEL");
  if (k.outputs < 1 || k.outputs > INT32_MAX || k.bits < 1 || k.bits > 4) return refuse(api, "LutGemv: outputs or bits are out of range");
  if (k.block != 32 && k.block != 64 && k.block != 128) return refuse(api, "LutGemv: blocks have 32, 64 or 128 inputs");
  Kernel* held = malloc(sizeof(Kernel));
  if (!held) return refuse(api, "LutGemv: no memory");
  *held = k;
  *made = held;
  return NULL;
}

static OrtStatus* create_gemv(const OrtCustomOp* op, const OrtApi* api, const void* info, void** made) {
  (void)op;
  int64_t entry = 0;
  TRY(ort_KernelInfoGetAttribute_int64(api)(info, "tables", &entry));
  if (entry != 8 && entry != 16 && entry != 32) return refuse(api, "LutGemv: an entry of its tables has 8, 16 or 32 bits");
  return create(api, info, entry == 8 ? LOOKUP_INT8 : entry == 16 ? LOOKUP_WORD : LOOKUP_FLOAT, made);
}

static OrtStatus* create_dequant(const OrtCustomOp* op, const OrtApi* api, const void* info, void** made) {
  return (void)op, create(api, info, LOOKUP_INT8, made);
}

// Data, number of elements, and (where wanted) dimensions of input `index`.
static OrtStatus* input(const OrtApi* api, const void* context, size_t index, const void** data, int64_t* count,
                        int64_t* dims, size_t* rank) {
  const void* value = NULL;
  TRY(ort_KernelContext_GetInput(api)(context, index, &value));
  if (!value) return refuse(api, "LutGemv: an input is missing");
  void* shape = NULL;
  TRY(ort_GetTensorTypeAndShape(api)(value, &shape));
  size_t found = 0;
  int64_t own[8];
  OrtStatus* status = ort_GetDimensionsCount(api)(shape, &found);
  if (!status && found > 8) status = refuse(api, "LutGemv: an input has more than 8 dimensions");
  if (!status) status = ort_GetDimensions(api)(shape, own, found);
  ort_ReleaseTensorTypeAndShapeInfo(api)(shape);
  if (status) return status;
  *count = 1;
  for (size_t i = 0; i < found; i++) *count *= own[i];
  if (dims) memcpy(dims, own, found * sizeof(int64_t)), *rank = found;
  return ort_GetTensorMutableData(api)((void*)value, (void**)data);
}

static int64_t panels_of_a_task(const Work* work) { return work->tables ? PANELS_OF_A_TASK : PANELS_TO_DEQUANTISE; }

static void task(void* data, size_t number) {
  const Work* work = data;
  int64_t each = panels_of_a_task(work), first = (int64_t)number * each, last = first + each;
  const LookupKernels* kernels = work->kernel->kernels;
  if (last > work->panels) last = work->panels;
  if (work->tables)
    kernels->multiply[work->kernel->kind](work->linear, work->tables, work->tokens, first, last, work->y);
  else
    kernels->dequantise(work->linear, first, last, work->y);
}

static OrtStatus* on_threads(Work* work, void* context) {
  work->panels = (work->linear->outputs + LOOKUP_PANEL - 1) / LOOKUP_PANEL;
  size_t tasks = (size_t)((work->panels + panels_of_a_task(work) - 1) / panels_of_a_task(work));
  if (work->tables && work->kernel->kernels != &lookup_plain &&
      work->linear->outputs * work->linear->inputs * work->linear->bits * work->tokens < ALONE) {
    for (size_t i = 0; i < tasks; i++) task(work, i);
    return NULL;
  }
  return ort_KernelContext_ParallelFor(work->kernel->api)(context, task, tasks, 0, work);
}

static OrtStatus* multiply(const Kernel* k, void* context, const LookupLinear* w, const float* x, int64_t rows, float* y) {
  int64_t held = rows < LOOKUP_TOKENS ? rows : LOOKUP_TOKENS, blocks = w->inputs / w->block;
  size_t entry = k->kind == LOOKUP_INT8 ? 1 : k->kind == LOOKUP_WORD ? 2 : sizeof(float);
  size_t sums = (size_t)(held * w->inputs) * 4 * entry;
  size_t each = (size_t)(held * blocks) * sizeof(float) * (k->kind == LOOKUP_WORD ? 2 : 1);
  char* memory = malloc(sums + 2 * each);
  if (!memory) return refuse(k->api, "LutGemv: no memory for its tables");
  LookupTables t = {(int8_t*)memory, (float*)memory, (float*)(memory + sums), (float*)(memory + sums + each)};
  Work work = {.kernel = k, .linear = w, .tables = &t};
  OrtStatus* status = NULL;
  for (int64_t m = 0; m < rows && !status; m += work.tokens) {
    work.tokens = rows - m < held ? rows - m : held;
    work.y = y + m * w->outputs;
    k->kernels->tables[k->kind](w, x + m * w->inputs, work.tokens, &t);
    status = on_threads(&work, context);
  }
  free(memory);
  return status;
}

// Planes, scales and zero points, from input `first` on, for `w`, whose inputs are known.
static OrtStatus* weights(const Kernel* k, const void* context, size_t first, LookupLinear* w) {
  const OrtApi* api = k->api;
  int64_t planes = 0, scales = 0, zeros = 0;
  const void* data;
  if (w->inputs < 1 || w->inputs > INT32_MAX || w->inputs % w->block) return refuse(api, "LutGemv: the block does not divide the inputs");
  TRY(input(api, context, first, &data, &planes, NULL, NULL));
  w->planes = data;
  TRY(input(api, context, first + 1, &data, &scales, NULL, NULL));
  w->scale = data;
  int64_t padded = (w->outputs + LOOKUP_PANEL - 1) / LOOKUP_PANEL * LOOKUP_PANEL;
  if (planes != padded * w->inputs / 8 * w->bits || scales != padded * (w->inputs / w->block))
    return refuse(api, "LutGemv: planes or scales are not those of this shape");
  TRY(input(api, context, first + 2, &data, &zeros, NULL, NULL));
  if (zeros == scales)
    w->zero_point = data;
  else if (zeros == 1)
    w->zero = *(const uint8_t*)data;
  else
    return refuse(api, "LutGemv: zero points are not those of this shape");
  return NULL;
}

static OrtStatus* compute_gemv(void* kernel, void* context) {
  const Kernel* k = kernel;
  const OrtApi* api = k->api;
  LookupLinear w = {.outputs = k->outputs, .bits = (int)k->bits, .block = (int)k->block};
  int64_t dims[8], elements = 0;
  size_t rank = 0;
  const void* x;
  TRY(input(api, context, 0, &x, &elements, dims, &rank));
  if (rank < 1) return refuse(api, "LutGemv: x has no dimension");
  w.inputs = dims[rank - 1];
  TRY(weights(k, context, 1, &w));
  dims[rank - 1] = w.outputs;
  void *value, *y;
  TRY(ort_KernelContext_GetOutput(api)(context, 0, dims, rank, &value));
  TRY(ort_GetTensorMutableData(api)(value, &y));
  return elements ? multiply(k, context, &w, x, elements / w.inputs, y) : NULL;
}

static OrtStatus* compute_dequant(void* kernel, void* context) {
  const Kernel* k = kernel;
  const OrtApi* api = k->api;
  LookupLinear w = {.outputs = k->outputs, .bits = (int)k->bits, .block = (int)k->block};
  int64_t dims[8], elements = 0;
  size_t rank = 0;
  const void* planes;
  TRY(input(api, context, 0, &planes, &elements, dims, &rank));
  if (rank != 5) return refuse(api, "LutDequant: planes have five dimensions");
  w.inputs = dims[1] * 32;
  TRY(weights(k, context, 0, &w));
  int64_t made[2] = {w.inputs, w.outputs};
  void *value, *y;
  TRY(ort_KernelContext_GetOutput(api)(context, 0, made, 2, &value));
  TRY(ort_GetTensorMutableData(api)(value, &y));
  return on_threads(&(Work){.kernel = k, .linear = &w, .y = y}, context);
}

static const char* gemv_name(const OrtCustomOp* op) { return (void)op, "LutGemv"; }
static const char* dequant_name(const OrtCustomOp* op) { return (void)op, "LutDequant"; }
static const char* provider(const OrtCustomOp* op) { return (void)op, NULL; }  // the CPU
static size_t four(const OrtCustomOp* op) { return (void)op, 4; }
static size_t three(const OrtCustomOp* op) { return (void)op, 3; }
static size_t one(const OrtCustomOp* op) { return (void)op, 1; }
static int nothing(const OrtCustomOp* op) { return (void)op, 0; }
static int weight_type(const OrtCustomOp* op, size_t index) { return (void)op, index == 1 ? ORT_FLOAT16 : ORT_UINT8; }
static int input_type(const OrtCustomOp* op, size_t index) { return index ? weight_type(op, index - 1) : ORT_FLOAT; }
static int output_type(const OrtCustomOp* op, size_t index) { return (void)op, (void)index, ORT_FLOAT; }
static int required(const OrtCustomOp* op, size_t index) { return (void)op, (void)index, ORT_REQUIRED; }
static int in_memory(const OrtCustomOp* op, size_t index) { return (void)op, (void)index, 0; }
static int first_version(const OrtCustomOp* op) { return (void)op, 1; }
static int last_version(const OrtCustomOp* op) { return (void)op, 1; }

#define SHARED                                                                                                          \
  .version = ORT_API_VERSION, .GetExecutionProviderType = provider, .GetOutputType = output_type,                       \
  .GetOutputTypeCount = one, .KernelDestroy = free, .GetInputCharacteristic = required,                                 \
  .GetOutputCharacteristic = required, .GetInputMemoryType = in_memory, .GetVariadicInputMinArity = nothing,            \
  .GetVariadicInputHomogeneity = nothing, .GetVariadicOutputMinArity = nothing,                                         \
  .GetVariadicOutputHomogeneity = nothing, .GetStartVersion = first_version, .GetEndVersion = last_version

static const OrtCustomOp lut_gemv = {
    SHARED,
    .GetName = gemv_name,
    .GetInputType = input_type,
    .GetInputTypeCount = four,
    .CreateKernelV2 = create_gemv,
    .KernelComputeV2 = compute_gemv,
};

static const OrtCustomOp lut_dequant = {
    SHARED,
    .GetName = dequant_name,
    .GetInputType = weight_type,
    .GetInputTypeCount = three,
    .CreateKernelV2 = create_dequant,
    .KernelComputeV2 = compute_dequant,
};

// What ONNX Runtime calls in a library of custom ops.
OrtStatus* RegisterCustomOps(void* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (!api) return NULL;  // an older ONNX Runtime: the op's body runs
  static void* domain = NULL;
  if (!domain) {
    TRY(ort_CreateCustomOpDomain(api)("ai.edgec", &domain));
    TRY(ort_CustomOpDomain_Add(api)(domain, &lut_gemv));
    TRY(ort_CustomOpDomain_Add(api)(domain, &lut_dequant));
  }
  return ort_AddCustomOpDomain(api)(options, domain);
}
