// The part of ONNX Runtime's C interface that a custom op needs, by position: its table of functions only ever grows at
// the end (onnxruntime_c_api.h, API version 17 of release 1.17 and later).
#ifndef EDGEC_ORT_API_H
#define EDGEC_ORT_API_H

#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 17
enum { ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_FLOAT16 = 10 };  // element types
enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };          // error codes
enum { ORT_REQUIRED = 0 };                                // of an input or output

typedef void OrtStatus;  // NULL: no error
typedef struct OrtApi OrtApi;

typedef struct {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)(void);
} OrtApiBase;

struct OrtApi {
  void* slot[275];
};

#define ORT_CALL(api, index, result, ...) ((result(*)(__VA_ARGS__))(api)->slot[index])
#define ort_CreateStatus(api) ORT_CALL(api, 0, OrtStatus*, int, const char*)
#define ort_CreateCustomOpDomain(api) ORT_CALL(api, 26, OrtStatus*, const char*, void**)
#define ort_CustomOpDomain_Add(api) ORT_CALL(api, 27, OrtStatus*, void*, const void*)
#define ort_AddCustomOpDomain(api) ORT_CALL(api, 28, OrtStatus*, void*, void*)
#define ort_GetTensorMutableData(api) ORT_CALL(api, 51, OrtStatus*, void*, void**)
#define ort_GetDimensionsCount(api) ORT_CALL(api, 61, OrtStatus*, const void*, size_t*)
#define ort_GetDimensions(api) ORT_CALL(api, 62, OrtStatus*, const void*, int64_t*, size_t)
#define ort_GetTensorTypeAndShape(api) ORT_CALL(api, 65, OrtStatus*, const void*, void**)
#define ort_KernelInfoGetAttribute_int64(api) ORT_CALL(api, 86, OrtStatus*, const void*, const char*, int64_t*)
#define ort_KernelContext_GetInput(api) ORT_CALL(api, 90, OrtStatus*, const void*, size_t, const void**)
#define ort_KernelContext_GetOutput(api) ORT_CALL(api, 91, OrtStatus*, void*, size_t, const int64_t*, size_t, void**)
#define ort_ReleaseStatus(api) ORT_CALL(api, 93, void, OrtStatus*)
#define ort_ReleaseTensorTypeAndShapeInfo(api) ORT_CALL(api, 99, void, void*)
#define ort_KernelContext_ParallelFor(api) \
  ORT_CALL(api, 274, OrtStatus*, const void*, void (*)(void*, size_t), size_t, size_t, void*)

typedef struct OrtCustomOp OrtCustomOp;
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const void* info);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  int (*GetInputType)(const OrtCustomOp*, size_t);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  int (*GetOutputType)(const OrtCustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void* kernel, void* context);
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const OrtCustomOp*, size_t);
  int (*GetOutputCharacteristic)(const OrtCustomOp*, size_t);
  int (*GetInputMemoryType)(const OrtCustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const void* info, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, void* context);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, void*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
  void* later[4];  // aliases of inputs and outputs: none
};

#endif
