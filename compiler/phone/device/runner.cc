// The reference runner: a language model of a bundle, on a phone or a PC, without Python.
//
//     edgec-runner BUNDLE --ids "1 2 3" --tokens 64 [--device CHIP] [--json]      ids on stdin without --ids
//
// It reads manifest.json and does what docs/bundle.md says: buckets, schedule, K/V caches, speculation in chains and trees,
// by a draft model that may work beside the target, and out of the text, greedy choice or sampling. Token ids go in and
// come out; `edgec run` and this program give the same ones on the same machine, sampled ones too: `Random` is NumPy's
// generator.
//
// Build (C++17; ONNX Runtime is loaded when it runs, its headers are not needed):
//
//     c++ -std=c++17 -O2 -pthread runner.cc -ldl -o edgec-runner
//     aarch64-linux-android34-clang++ -std=c++17 -O2 -static-libstdc++ runner.cc -o edgec-runner         with the NDK
//
// for bundles with models `as mnn` add, with MNN's source of the manifest's version and its libraries for that machine:
//
//     -DEDGEC_MNN -I MNN/include -I MNN/transformers/llm/engine/include -L LIBRARIES -lMNN -lMNN_Express -lllm
//
// Exit codes: 0, 1 (a wish that the bundle cannot meet), 2 (usage), 3 (a bundle or an engine that fails).

#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <queue>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#ifdef __ANDROID__
#include <sys/system_properties.h>
#endif
#ifdef EDGEC_MNN
#include <llm/llm.hpp>
#endif

namespace {

using std::string;
using std::vector;

struct Failure : std::runtime_error {
  int code;
  Failure(int exit_code, const string& text) : std::runtime_error(text), code(exit_code) {}
};

[[noreturn]] void refuse(const string& text) { throw Failure(1, text); }
[[noreturn]] void broken(const string& text) { throw Failure(3, text); }

// ---------------------------------------------------------------------------------------------------------------- JSON

class Json {
 public:
  enum Kind { NONE, BOOL, NUMBER, TEXT, LIST, TABLE };
  Kind kind = NONE;
  double number = 0;
  string text;
  vector<Json> list;
  vector<std::pair<string, Json>> table;  // in the order of the file

  static Json parse(const string& from) {
    Reader reader{from};
    Json made = reader.value(0);
    reader.space();
    if (reader.at != from.size()) reader.wrong("something behind the value");
    return made;
  }

  const Json* find(const string& key) const {
    for (const auto& [name, value] : table)
      if (name == key) return value.kind == NONE ? nullptr : &value;
    return nullptr;
  }
  const Json& operator[](const string& key) const {
    const Json* found = find(key);
    if (!found) broken("manifest.json has no `" + key + "` where one is needed");
    return *found;
  }
  const string& as_text() const { return demand(TEXT, "a text").text; }
  const vector<Json>& as_list() const { return demand(LIST, "a list").list; }
  double as_number() const { return demand(NUMBER, "a number").number; }
  int64_t as_int() const {
    double value = as_number();
    if (value != std::floor(value) || std::fabs(value) > 9e15) broken("manifest.json: not a whole number");
    return static_cast<int64_t>(value);
  }

 private:
  const Json& demand(Kind wanted, const char* what) const {
    if (kind != wanted) broken(string("manifest.json: something is not ") + what);
    return *this;
  }

  struct Reader {
    const string& from;
    size_t at = 0;

    [[noreturn]] void wrong(const string& why) const {
      broken("manifest.json is not JSON: " + why + " at byte " + std::to_string(at));
    }
    void space() {
      while (at < from.size() && strchr(" \t\r\n", from[at])) ++at;
    }
    bool take(const char* word) {
      size_t length = strlen(word);
      if (from.compare(at, length, word) != 0) return false;
      at += length;
      return true;
    }
    Json value(int depth) {
      if (depth > 64) wrong("too deep");
      space();
      Json made;
      if (at >= from.size()) wrong("it ends early");
      char first = from[at];
      if (first == '{') {
        made.kind = TABLE;
        ++at;
        space();
        if (take("}")) return made;
        do {
          space();
          string key = quoted();
          space();
          if (!take(":")) wrong("no `:`");
          made.table.emplace_back(std::move(key), value(depth + 1));
          space();
        } while (take(","));
        if (!take("}")) wrong("no `}`");
      } else if (first == '[') {
        made.kind = LIST;
        ++at;
        space();
        if (take("]")) return made;
        do {
          made.list.push_back(value(depth + 1));
          space();
        } while (take(","));
        if (!take("]")) wrong("no `]`");
      } else if (first == '"') {
        made.kind = TEXT;
        made.text = quoted();
      } else if (take("true") || take("false")) {
        made.kind = BOOL;
        made.number = first == 't';
      } else if (take("null")) {
        made.kind = NONE;
      } else {
        made.kind = NUMBER;
        char* end = nullptr;
        made.number = strtod(from.c_str() + at, &end);
        size_t length = static_cast<size_t>(end - (from.c_str() + at));
        if (length == 0) wrong("no value");
        at += length;
      }
      return made;
    }
    string quoted() {
      if (!take("\"")) wrong("no text");
      string made;
      while (at < from.size() && from[at] != '"') {
        char c = from[at++];
        if (c != '\\') {
          made += c;
          continue;
        }
        if (at >= from.size()) break;
        c = from[at++];
        static const char escapes[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
        if (c == 'u') {
          uint32_t point = hex();
          bool pair = point >= 0xD800 && point < 0xDC00 && take("\\u");
          utf8(made, pair ? 0x10000 + ((point - 0xD800) << 10) + (hex() - 0xDC00) : point);
        } else if (const char* found = c ? strchr(escapes, c) : nullptr) {
          made += meant[found - escapes];
        } else {
          wrong("an escape it does not have");
        }
      }
      if (!take("\"")) wrong("a text without an end");
      return made;
    }
    uint32_t hex() {
      if (at + 4 > from.size()) wrong("it ends early");
      uint32_t made = static_cast<uint32_t>(strtoul(from.substr(at, 4).c_str(), nullptr, 16));
      at += 4;
      return made;
    }
    static void utf8(string& made, uint32_t point) {
      auto put = [&](uint32_t byte) { made += static_cast<char>(byte); };
      if (point < 0x80) {
        put(point);
      } else if (point < 0x800) {
        put(0xC0 | (point >> 6)), put(0x80 | (point & 63));
      } else if (point < 0x10000) {
        put(0xE0 | (point >> 12)), put(0x80 | ((point >> 6) & 63)), put(0x80 | (point & 63));
      } else {
        put(0xF0 | (point >> 18)), put(0x80 | ((point >> 12) & 63)), put(0x80 | ((point >> 6) & 63)),
            put(0x80 | (point & 63));
      }
    }
  };
};

// ------------------------------------------------------------------------------------------------------------- tensors

// Types by the manifest's name: bytes of an element, and ONNX Runtime's number for it.
struct Type {
  size_t bytes;
  int onnx;
};

const Type& type_of(const string& name) {
  static const std::map<string, Type> types = {
      {"float32", {4, 1}},  {"uint8", {1, 2}},    {"int8", {1, 3}},    {"uint16", {2, 4}},
      {"int16", {2, 5}},    {"int32", {4, 6}},    {"int64", {8, 7}},   {"bool", {1, 9}},
      {"float16", {2, 10}}, {"float64", {8, 11}}, {"uint32", {4, 12}}, {"uint64", {8, 13}},
  };
  auto found = types.find(name);
  if (found == types.end()) broken("this runner has no tensors of " + name);
  return found->second;
}

struct Tensor {
  string dtype;
  vector<int64_t> shape;
  std::shared_ptr<vector<char>> data;  // several tensors may read the same bytes

  static Tensor zeros(const string& dtype, const vector<int64_t>& shape) {
    Tensor made{dtype, shape, nullptr};
    made.data = std::make_shared<vector<char>>(made.count() * type_of(dtype).bytes);
    return made;
  }
  size_t count() const {
    size_t made = 1;
    for (int64_t size : shape) made *= static_cast<size_t>(size);
    return made;
  }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data->data());
  }
};

float half_to_float(uint16_t half) {
  uint32_t sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 31, fraction = half & 0x3FFu, bits;
  if (exponent == 31) {
    bits = sign | 0x7F800000u | (fraction << 13);
  } else if (exponent) {
    bits = sign | ((exponent + 112) << 23) | (fraction << 13);
  } else {
    float small = std::ldexp(static_cast<float>(fraction), -24);
    memcpy(&bits, &small, 4);
    bits |= sign;
  }
  float made;
  memcpy(&made, &bits, 4);
  return made;
}

uint16_t float_to_half(float value) {  // to the nearest, ties to even
  uint32_t bits;
  memcpy(&bits, &value, 4);
  uint32_t sign = (bits >> 16) & 0x8000u, rest = bits & 0x7FFFFFFFu;
  if (rest > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u);
  if (rest >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // 65520 and more round to infinity
  if (rest < 0x38800000u) {                                               // below 2^-14: multiples of 2^-24
    float magnitude = std::fabs(value);
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, 24))));
  }
  uint32_t odd = (rest >> 13) & 1;
  return static_cast<uint16_t>(sign | ((rest - 0x38000000u + 0xFFFu + odd) >> 13));
}

// Calls `use` with a typed pointer to the elements.
template <class Use>
void typed(const string& dtype, void* data, Use use) {
  if (dtype == "float32") return use(static_cast<float*>(data));
  if (dtype == "float64") return use(static_cast<double*>(data));
  if (dtype == "int64") return use(static_cast<int64_t*>(data));
  if (dtype == "int32") return use(static_cast<int32_t*>(data));
  if (dtype == "uint32") return use(static_cast<uint32_t*>(data));
  if (dtype == "uint16") return use(static_cast<uint16_t*>(data));
  if (dtype == "int16") return use(static_cast<int16_t*>(data));
  if (dtype == "uint8" || dtype == "bool") return use(static_cast<uint8_t*>(data));
  if (dtype == "int8") return use(static_cast<int8_t*>(data));
  broken("this runner does not convert " + dtype);
}

vector<double> numbers(const Tensor& from) {
  vector<double> made(from.count());
  if (from.dtype == "float16") {
    const uint16_t* stored = from.as<uint16_t>();
    for (size_t i = 0; i < made.size(); ++i) made[i] = half_to_float(stored[i]);
  } else {
    typed(from.dtype, from.data->data(), [&](auto* stored) {
      for (size_t i = 0; i < made.size(); ++i) made[i] = static_cast<double>(stored[i]);
    });
  }
  return made;
}

Tensor from_numbers(const vector<double>& values, const string& dtype, const vector<int64_t>& shape) {
  Tensor made = Tensor::zeros(dtype, shape);
  if (dtype == "float16") {
    for (size_t i = 0; i < values.size(); ++i) made.as<uint16_t>()[i] = float_to_half(static_cast<float>(values[i]));
  } else {
    typed(dtype, made.data->data(), [&](auto* stored) {
      for (size_t i = 0; i < values.size(); ++i) stored[i] = static_cast<std::decay_t<decltype(*stored)>>(values[i]);
    });
  }
  return made;
}

bool is_float(const string& dtype) { return dtype.rfind("float", 0) == 0; }

// `value` as the graph's input `spec` of the manifest wants it: its shape where that is fixed, its type, quantised.
Tensor as_input(const Tensor& value, const Json& spec) {
  vector<int64_t> shape;
  for (const Json& size : spec["shape"].as_list()) shape.push_back(size.kind == Json::NUMBER ? size.as_int() : -1);
  const bool fixed = std::find(shape.begin(), shape.end(), -1) == shape.end();
  Tensor made = value;
  if (fixed) made.shape = shape;
  if (made.count() != value.count()) broken("`" + spec["name"].as_text() + "` has another size than the manifest says");
  const string& dtype = spec["dtype"].as_text();
  const Json* encoding = spec.find("quantization");
  if (dtype == value.dtype && !(encoding && is_float(value.dtype))) return made;
  vector<double> values = numbers(value);
  if (encoding && is_float(value.dtype)) {
    const double scale = (*encoding)["scale"].as_number(), zero = (*encoding)["zero_point"].as_number();
    const double bits = 8.0 * static_cast<double>(type_of(dtype).bytes);
    const bool sign = dtype[0] != 'u';
    const double low = sign ? -std::ldexp(1.0, static_cast<int>(bits) - 1) : 0;
    const double high = std::ldexp(1.0, static_cast<int>(bits) - (sign ? 1 : 0)) - 1;
    for (double& one : values) one = std::min(high, std::max(low, std::nearbyint(one / scale) + zero));
  }
  return from_numbers(values, dtype, made.shape);
}

// A graph's output as float32; integers without a quantization stay what they are.
Tensor as_float(const Tensor& value, const Json& spec) {
  const Json* encoding = spec.find("quantization");
  if (value.dtype == "float32" || (!encoding && !is_float(value.dtype))) return value;
  vector<double> values = numbers(value);
  if (encoding) {
    const double zero = (*encoding)["zero_point"].as_number();
    const float scale = static_cast<float>((*encoding)["scale"].as_number());
    for (double& one : values) one = static_cast<float>(one - zero) * scale;
  }
  return from_numbers(values, "float32", value.shape);
}

// -------------------------------------------------------------------------------------------------------- ONNX Runtime

// The C interface by position: its table of functions only ever grows at the end (API version 22: ONNX Runtime 1.22).
class Ort {
 public:
  using Opaque = void*;

  explicit Ort(const string& library) {
    setenv("ORT_DISABLE_TELEMETRY", "1", 1);
    void* opened = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!opened) broken(string("ONNX Runtime cannot be loaded: ") + dlerror());
    struct Base {
      void* const* (*table)(uint32_t version);
      const char* (*version)();
    };
    auto base = reinterpret_cast<const Base* (*)()>(dlsym(opened, "OrtGetApiBase"));
    table_ = base ? base()->table(22) : nullptr;
    if (!table_) broken("`" + library + "` is no ONNX Runtime of 1.22 or later");
    check(call<Opaque>(3, 3, "edgec", &environment_));  // CreateEnv, errors only
    check(call<Opaque>(69, 1, 0, &memory_));            // CreateCpuMemoryInfo: arena, default
  }

  void check(Opaque status) const {
    if (!status) return;
    string said = call<const char*>(2, status);  // GetErrorMessage
    call<void>(93, status);                      // ReleaseStatus
    broken("ONNX Runtime: " + said);
  }

  // Registers an execution provider's library; its devices by the provider's name.
  void register_provider(const string& name, const string& path) {
    check(call<Opaque>(301, environment_, name.c_str(), path.c_str()));
    const Opaque* devices = nullptr;
    size_t count = 0;
    check(call<Opaque>(303, environment_, &devices, &count));  // GetEpDevices
    for (size_t i = 0; i < count; ++i)
      if (name == call<const char*>(312, devices[i])) provider_.push_back(devices[i]);  // EpDevice_EpName
    if (provider_.empty()) broken("`" + path + "` finds no device");
  }

  struct Options {
    bool optimise = false;
    string custom_ops;                  // library of them
    std::map<string, string> provider;  // options of the registered provider; empty: the CPU
    std::map<string, string> entries;   // of the session
  };

  Opaque open(const string& path, const Options& wanted) const {
    Opaque options = nullptr, session = nullptr;
    check(call<Opaque>(10, &options));
    check(call<Opaque>(17, options));                            // DisableMemPattern
    check(call<Opaque>(19, options));                            // DisableCpuMemArena: values are freed as they are read
    check(call<Opaque>(22, options, 3));                         // SetSessionLogSeverityLevel
    check(call<Opaque>(23, options, wanted.optimise ? 99 : 0));  // SetSessionGraphOptimizationLevel: all, none
    std::map<string, string> entries = wanted.entries;
    entries["session.intra_op.allow_spinning"] = "0";
    if (!wanted.provider.empty()) entries["session.disable_cpu_ep_fallback"] = "1";
    for (const auto& [key, value] : entries) check(call<Opaque>(130, options, key.c_str(), value.c_str()));
    if (!wanted.custom_ops.empty()) {
      Opaque held = nullptr;
      check(call<Opaque>(29, options, wanted.custom_ops.c_str(), &held));  // RegisterCustomOpsLibrary
    }
    if (!wanted.provider.empty()) {
      vector<const char*> keys, values;
      for (const auto& [key, value] : wanted.provider) keys.push_back(key.c_str()), values.push_back(value.c_str());
      check(call<Opaque>(304, options, environment_, provider_.data(), provider_.size(), keys.data(), values.data(),
                         keys.size()));
    }
    check(call<Opaque>(7, environment_, path.c_str(), options, &session));
    call<void>(100, options);
    return session;
  }

  // Runs a session; `outputs` name what is wanted.
  vector<Tensor> run(Opaque session, const vector<std::pair<string, Tensor>>& inputs,
                     const vector<string>& outputs) const {
    vector<const char*> names, wanted;
    vector<Opaque> values(inputs.size()), made(outputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      const Tensor& one = inputs[i].second;
      names.push_back(inputs[i].first.c_str());
      check(call<Opaque>(49, memory_, static_cast<void*>(one.data->data()), one.data->size(), one.shape.data(),
                         one.shape.size(), type_of(one.dtype).onnx, &values[i]));  // CreateTensorWithDataAsOrtValue
    }
    for (const string& name : outputs) wanted.push_back(name.c_str());
    Opaque none = nullptr;
    check(call<Opaque>(9, session, none, names.data(), values.data(), values.size(), wanted.data(), wanted.size(),
                       made.data()));
    vector<Tensor> found;
    for (Opaque value : made) found.push_back(copied(value));
    for (Opaque value : values) call<void>(96, value);
    return found;
  }

  void close(Opaque session) const { call<void>(95, session); }

 private:
  void* const* table_ = nullptr;
  Opaque environment_ = nullptr, memory_ = nullptr;
  vector<Opaque> provider_;

  template <class Result, class... Words>
  Result call(size_t slot, Words... words) const {
    return reinterpret_cast<Result (*)(Words...)>(table_[slot])(words...);
  }

  Tensor copied(Opaque value) const {
    Opaque info = nullptr;
    size_t rank = 0;
    int kind = 0;
    Tensor made;
    void* data = nullptr;
    check(call<Opaque>(65, value, &info));  // GetTensorTypeAndShape
    check(call<Opaque>(60, info, &kind));   // GetTensorElementType
    check(call<Opaque>(61, info, &rank));   // GetDimensionsCount
    made.shape.resize(rank);
    check(call<Opaque>(62, info, made.shape.data(), rank));  // GetDimensions
    call<void>(99, info);
    for (const char* name : {"float32", "float16", "uint8", "int8", "uint16", "int16", "int32", "int64", "bool",
                             "float64", "uint32", "uint64"})
      if (type_of(name).onnx == kind) made.dtype = name;
    if (made.dtype.empty()) broken("ONNX Runtime gives a tensor of type " + std::to_string(kind));
    check(call<Opaque>(51, value, &data));  // GetTensorMutableData
    const char* bytes = static_cast<const char*>(data);
    made.data = std::make_shared<vector<char>>(bytes, bytes + made.count() * type_of(made.dtype).bytes);
    call<void>(96, value);  // ReleaseValue
    return made;
  }
};

// ---------------------------------------------------------------------------------------------------------- the bundle

string lower(string text) {
  for (char& c : text) c = static_cast<char>(tolower(static_cast<unsigned char>(c)));
  return text;
}

string read_file(const string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) broken("`" + path + "` cannot be read");
  std::ostringstream held;
  held << file.rdbuf();
  return held.str();
}

struct Bundle {
  string folder;
  Json manifest;
  string device;  // by its name in the manifest

  string path(const string& name) const { return folder + "/" + name; }

  // The path of a file that an engine is to load, which has to have the size that the manifest says: engines take files
  // that were cut off without a word.
  string checked(const string& name) const {
    const Json* entry = manifest["files"].find(name);
    struct stat found;
    if (!entry || name.find("..") != string::npos) broken("the manifest does not list `" + name + "`");
    if (stat(path(name).c_str(), &found) != 0) broken("`" + name + "` is not there: copy the bundle again");
    if (found.st_size != (*entry)["size"].as_int())
      broken("`" + name + "` has another size than the manifest says: copy the bundle again");
    return path(name);
  }
  const Json& model(const string& name) const {
    if (const Json* found = manifest["models"].find(name)) return *found;
    string known;
    for (const auto& [one, _] : manifest["models"].table) known += (known.empty() ? "`" : ", `") + one + "`";
    refuse("the bundle has no model `" + name + "`, it has " + known);
  }
};

string chip_of_this_machine() {
  if (const char* said = getenv("EDGEC_DEVICE")) return said;
#ifdef __ANDROID__
  char value[PROP_VALUE_MAX] = "";
  if (__system_property_get("ro.soc.model", value) > 0) return value;
#endif
  return "";
}

// `SM8650`, `SM8650P` and `SM8650-AC` are one chip, as device/run.sh has it.
bool is_chip(const Json& device, const string& said) {
  string name = lower(said), sm = device.find("sm") ? lower(device["sm"].as_text()) : "";
  if (name == lower(device["name"].as_text())) return true;
  if (sm.empty() || name.compare(0, sm.size(), sm) != 0) return false;
  string rest = name.substr(sm.size());
  if (rest.size() == 3 && rest[0] == '-')
    rest.erase(0, 1);
  else if (rest.size() > 2 || (!rest.empty() && rest[0] == '-'))
    return false;
  return std::all_of(rest.begin(), rest.end(), [](unsigned char c) { return isalpha(c) != 0; });
}

Bundle open_bundle(const string& folder, string chip) {
  Bundle made{folder, Json::parse(read_file(folder + "/manifest.json")), ""};
  if (made.manifest["format"].as_text() != "edgec.bundle" || made.manifest["version"].as_int() != 1)
    broken("`" + folder + "` is no bundle of version 1");
  if (const Json* packed = made.manifest.find("packed"))
    for (const auto& [name, _] : (*packed)["files"].table)
      refuse("`" + name + "` lies packed in the bundle: `edgec push` restores it, or device/unpack.c");
  const vector<Json>& devices = made.manifest["devices"].as_list();
  string built;
  for (const Json& one : devices)
    built += (built.empty() ? "" : " and ") + one["name"].as_text() +
             (one.find("sm") ? " (" + one["sm"].as_text() + ")" : "");
  if (chip.empty()) chip = chip_of_this_machine();
  if (chip.empty() && devices.size() == 1 && devices[0]["name"].as_text() == "host") chip = "host";
  if (chip.empty()) refuse("this machine does not say its chip: give `--device`, for this bundle " + built);
  for (const Json& one : devices)
    if (is_chip(one, chip)) made.device = one["name"].as_text();
  if (made.device.empty()) refuse("this bundle was built for " + built + ", not for " + chip);
  return made;
}

// ------------------------------------------------------------------------------------------------------------- engines

struct Wishes {
  string ort = "libonnxruntime.so", provider = "libonnxruntime_providers_qnn.so", backend = "libQnnHtp.so";
  string npu_graphs, cpu_graphs;  // folders of graphs that run in the place of the NPU's, on a PC
};

// ONNX Runtime, loaded when a part first needs it.
class Engines {
 public:
  Engines(const Bundle& bundle, const Wishes& wishes) : bundle_(bundle), wishes_(wishes) {}

  const Ort& ort() { return *loaded(); }

  Ort::Opaque open(const string& name, const Json& part, const string& bucket) {
    const string& target = part["target"].as_text();
    const Json& graph = part["graphs"][bucket];
    if (target == "ort") return open_cpu(part, graph);
    if (target != "qnn") refuse("part `" + name + "` is for `" + target + "`, which this runner has no engine for");
    return wishes_.cpu_graphs.empty() ? open_npu(part, graph)
                                      : ort().open(stand_in(wishes_.cpu_graphs, part, graph), {});
  }

 private:
  const Bundle& bundle_;
  const Wishes& wishes_;
  std::unique_ptr<Ort> ort_;
  bool provider_ = false;
  std::mutex lock_;

  Ort* loaded() {
    std::lock_guard<std::mutex> held(lock_);
    if (!ort_) ort_ = std::make_unique<Ort>(wishes_.ort);
    return ort_.get();
  }

  Ort::Opaque open_cpu(const Json& part, const Json& graph) {
    const Json& details = part["details"];
    const string& file = (graph.find("file") ? graph : part)["file"].as_text();
    if (const Json* data = details.find("data"))
      if (size_t slash = file.rfind('/'); bundle_.manifest["files"].find(file.substr(0, slash + 1) + data->as_text()))
        bundle_.checked(file.substr(0, slash + 1) + data->as_text());
    Ort::Options options;
    options.optimise = details["optimisation"].as_text() == "all";
    if (const Json* kernels = details.find("kernels")) options.custom_ops = lookup_library(kernels->as_text());
    return ort().open(bundle_.checked(file), options);
  }

  // Built by the bundle's own script; without it the ops' bodies run, which is slow.
  string lookup_library(const string& folder) const {
    const string name = "libedgec_lookup.so";
    struct stat found;
    for (const string& path : {bundle_.path("lib/" + name), bundle_.path(folder + "/" + name)})
      if (stat(path.c_str(), &found) == 0) return path;
    std::cerr << "edgec-runner: " << name << " is not there (" << folder
              << "/build.sh makes it): lookups run as standard ops\n";
    return "";
  }

  // Where a PC has what runs in the place of a graph of an NPU's binary.
  static string stand_in(const string& folder, const Json& part, const Json& graph) {
    const string& name = graph["details"]["target_graph"].as_text();
    return folder + "/" + part["details"]["twins"].as_text() + "/" + name + ".onnx";
  }

  Ort::Opaque open_npu(const Json& part, const Json& graph) {
    {
      Ort* ort = loaded();
      std::lock_guard<std::mutex> held(lock_);
      if (!provider_) ort->register_provider("QNNExecutionProvider", wishes_.provider);
      provider_ = true;
    }
    const Json& chip = part["details"]["chip"];
    auto number = [&](const char* key) { return std::to_string(chip[key].as_int()); };
    Ort::Options options;
    options.provider = {{"backend_path", wishes_.backend},  {"soc_model", number("soc_model")},
                        {"htp_arch", number("arch")},       {"vtcm_mb", number("vtcm_mb")},
                        {"enable_htp_fp16_precision", "1"}, {"offload_graph_io_quantization", "0"}};
    if (!wishes_.npu_graphs.empty()) return ort().open(stand_in(wishes_.npu_graphs, part, graph), options);
    bundle_.checked(part["file"].as_text());
    options.entries["ep.share_ep_contexts"] = "1";  // all buckets lie in one binary, which is loaded once
    return ort().open(bundle_.checked(graph["file"].as_text()), options);
  }
};

// -------------------------------------------------------------------------------------------------------------- models

// Tokens in, logits out, and a cache whose end can be cut off.
class Model {
 public:
  virtual ~Model() = default;
  int64_t vocab = 0, context = 0;

  virtual int64_t length() const = 0;
  virtual bool fits(int64_t count) const = 0;
  virtual int64_t piece() const { return 256; }                   // prompt tokens of a call
  virtual vector<float> forward(const vector<int64_t>& ids) = 0;  // [ids, vocab]; the ids join the cache
  virtual void rollback(int64_t length) = 0;

  // Whether it takes tokens of a tree, each below a slot counted from the text's end, -1 the text's last token. They
  // lie behind each other in the cache until `keep` makes a path of them, given by its slots, part of the text.
  virtual bool branches() const { return false; }
  virtual vector<float> grow(const vector<int64_t>&, const vector<int64_t>&) { broken("this engine takes no trees"); }
  virtual void keep(const vector<int64_t>&) { broken("this engine takes no trees"); }

  // The scores after the last of `ids`, which go into the cache piece by piece.
  vector<float> feed(const vector<int64_t>& ids) {
    const int64_t count = static_cast<int64_t>(ids.size()), each = piece();
    vector<float> made;
    for (int64_t start = 0; start < count; start += each)
      made = forward({ids.begin() + start, ids.begin() + std::min(count, start + each)});
    return {made.end() - vocab, made.end()};
  }

 protected:
  void check_ids(const vector<int64_t>& ids) const {
    for (int64_t id : ids)
      if (id < 0 || id >= vocab)
        refuse("token id " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(vocab));
  }
};

// Static shapes and the cheapest sequence of them: full calls, at most one padded call at the end.
class Buckets {
 public:
  struct Bucket {
    string name;
    int64_t tokens, context;
    double cost;
  };
  vector<Bucket> all;
  string dynamic;  // the one graph of any shape, if it is that
  int64_t context = 0, largest = 0;

  Buckets(const vector<Json>& entries, int64_t longest) : context(longest) {
    int64_t reach = 0;
    for (const Json& one : entries) {
      if (!one.find("tokens")) {
        dynamic = one["name"].as_text();
        return;
      }
      int64_t tokens = one["tokens"].as_int();
      double cost = one.find("cost") ? one["cost"].as_number() : 32.0 + static_cast<double>(tokens);
      all.push_back({one["name"].as_text(), tokens, one["context"].as_int(), cost});
      largest = std::max(largest, tokens), reach = std::max(reach, all.back().context);
    }
    context = reach;
  }

  // The bucket of `tokens` with the smallest context that holds `past` positions before them.
  const Bucket* choose(int64_t tokens, int64_t past) const {
    const Bucket* found = nullptr;
    for (const Bucket& one : all)
      if (one.tokens == tokens && past + tokens <= one.context && (!found || one.context < found->context))
        found = &one;
    return found;
  }

  // The fewest tokens of a bucket that takes `tokens` in one call, 0 where none does.
  int64_t at_least(int64_t tokens) const {
    int64_t found = 0;
    for (const Bucket& one : all)
      if (one.tokens >= tokens && (!found || one.tokens < found)) found = one.tokens;
    return found;
  }

  // Slots of each call for `count` tokens behind `past`; empty if no context holds them.
  vector<int64_t> plan(int64_t count, int64_t past) const {
    const double never = std::numeric_limits<double>::infinity();
    std::set<int64_t> sizes;
    for (const Bucket& one : all) sizes.insert(one.tokens);
    struct State {
      double cost;
      int64_t last;
    };
    vector<State> best(static_cast<size_t>(std::max<int64_t>(count, 1)), {never, 0});
    best[0].cost = 0;
    for (int64_t done = 1; done < count; ++done)
      for (int64_t size : sizes)
        if (size <= done)
          if (double cost = best[static_cast<size_t>(done - size)].cost + price(size, past + done);
              cost < best[static_cast<size_t>(done)].cost)
            best[static_cast<size_t>(done)] = {cost, size};
    double total = never;
    int64_t last = 0, at = 0;
    for (int64_t size : sizes)
      for (int64_t done = std::max<int64_t>(0, count - size); done < count; ++done)
        if (double cost = best[static_cast<size_t>(done)].cost + price(size, past + done + size); cost < total)
          total = cost, last = size, at = done;
    if (last == 0) return {};
    vector<int64_t> calls = {last};
    for (; at; at -= calls.back()) calls.push_back(best[static_cast<size_t>(at)].last);
    std::reverse(calls.begin(), calls.end());
    return calls;
  }

 private:
  // Of a call of `tokens` that ends at `end`: a longer context may be the cheaper one.
  double price(int64_t tokens, int64_t end) const {
    double found = std::numeric_limits<double>::infinity();
    for (const Bucket& one : all)
      if (one.tokens == tokens && end <= one.context) found = std::min(found, one.cost);
    return found;
  }
};

// master: every position once, [heads, context, width]. active: what the bucket in use reads, in the graphs' layout.
class KvCache {
 public:
  int64_t length = 0;

  KvCache(const Json& arch, const Json& kv, int64_t context, const std::map<string, const Json*>& own)
      : context_(context),
        heads_(arch["kv_heads"].as_int()),
        width_(kv.find("row_bytes") ? kv["row_bytes"].as_int() : arch["head_dim"].as_int()) {
    if (heads_ < 1 || width_ < 1 || context < 1) broken("manifest.json: a K/V cache of no size");
    for (int64_t layer = 0; layer < arch["layers"].as_int(); ++layer)
      for (const char* kind : {"key", "value"}) {
        string stem = kv.find("names") ? kv["names"][kind].as_text() : string("past_") + kind + "_{layer}";
        if (size_t at = stem.find("{layer}"); at != string::npos) stem.replace(at, 7, std::to_string(layer));
        auto found = own.find(stem);
        const Json& entry = found == own.end() ? kv : *found->second;
        Stream made;
        for (const Json& axis : entry["layout"][kind].as_list()) made.axes.push_back(axis.as_text());
        made.master = Tensor::zeros(entry["dtype"].as_text(), {heads_, context, width_});
        streams_[stem] = made;
      }
  }

  bool holds(const string& output) const {
    return output.size() > 4 && streams_.count(output.substr(0, output.size() - 4)) &&
           output.compare(output.size() - 4, 4, "_out") == 0;
  }

  void feed(int64_t capacity, std::map<string, Tensor>& values) {
    for (auto& [name, one] : streams_) {
      if (capacity != capacity_) {
        one.active = Tensor::zeros(one.master.dtype, sizes(one, capacity));
        copy(one.master, canonical(), context_, one.active, one.axes, capacity, 0, std::min(length, capacity));
      }
      values[name + "_in"] = one.active;
    }
    capacity_ = capacity;
  }

  // Takes the first `count` new positions of each output.
  void append(const std::map<string, Tensor>& values, int64_t count) {
    for (auto& [name, one] : streams_) {
      auto found = values.find(name + "_out");
      if (found == values.end()) broken("no part makes `" + name + "_out`");
      const Tensor& made = found->second;
      const int64_t slots =
          made.shape[static_cast<size_t>(std::find(one.axes.begin(), one.axes.end(), "position") - one.axes.begin())];
      if (made.dtype != one.master.dtype || made.shape != sizes(one, slots) || slots < count)
        broken("`" + name + "_out` is not laid out as the manifest says");
      copy(made, one.axes, slots, one.master, canonical(), context_, length, count);
      copy(made, one.axes, slots, one.active, one.axes, capacity_, length,
           std::max<int64_t>(0, std::min(count, capacity_ - length)));
    }
    length += count;
  }

  // Of what lies behind the first `base` positions keeps `base + slot` for each of `slots`, moved together.
  void compact(int64_t base, const vector<int64_t>& slots) {
    const int64_t end = base + static_cast<int64_t>(slots.size());
    for (auto& [_, one] : streams_) {
      for (size_t i = 0; i < slots.size(); ++i) {
        const int64_t from = base + slots[i], to = base + static_cast<int64_t>(i);
        move(one.master, canonical(), context_, from, one.master, canonical(), context_, to);
        if (to < capacity_) move(one.master, canonical(), context_, to, one.active, one.axes, capacity_, to);
      }
    }
    length = end;
  }

 private:
  struct Stream {
    vector<string> axes;
    Tensor master, active;
  };
  int64_t context_, heads_, width_, capacity_ = -1;
  std::map<string, Stream> streams_;

  static const vector<string>& canonical() {
    static const vector<string> axes = {"kv_heads", "position", "head_dim"};
    return axes;
  }
  vector<int64_t> sizes(const Stream& one, int64_t positions) const {
    vector<int64_t> made;
    for (const string& axis : one.axes)
      made.push_back(axis == "batch" ? 1 : axis == "kv_heads" ? heads_ : axis == "position" ? positions : width_);
    return made;
  }
  // Elements between neighbours along an axis.
  int64_t stride(const vector<string>& axes, const string& wanted, int64_t positions) const {
    int64_t made = 1;
    for (size_t i = axes.size(); i-- > 0 && axes[i] != wanted;)
      made *= axes[i] == "batch" ? 1 : axes[i] == "kv_heads" ? heads_ : axes[i] == "position" ? positions : width_;
    return made;
  }
  // The first `count` positions of `from` to `start` and on of `to`, each with its axes and its number of positions.
  void copy(const Tensor& from, const vector<string>& from_axes, int64_t from_positions, Tensor& to,
            const vector<string>& to_axes, int64_t to_positions, int64_t start, int64_t count) const {
    move(from, from_axes, from_positions, 0, to, to_axes, to_positions, start, count);
  }
  // Positions from `begin` on instead of the first; `slots` of a tree only ever move to where earlier ones were.
  void move(const Tensor& from, const vector<string>& from_axes, int64_t from_positions, int64_t begin, Tensor& to,
            const vector<string>& to_axes, int64_t to_positions, int64_t start, int64_t count = 1) const {
    const size_t bytes = type_of(from.dtype).bytes;
    const auto step = [&](const char* axis) {
      return std::pair(stride(from_axes, axis, from_positions), stride(to_axes, axis, to_positions));
    };
    const auto [h_from, h_to] = step("kv_heads");
    const auto [p_from, p_to] = step("position");
    const auto [d_from, d_to] = step("head_dim");
    const char* source = from.data->data();
    char* target = to.data->data();
    const int64_t run = d_from == 1 && d_to == 1 ? width_ : 1;  // elements that lie side by side in both
    for (int64_t h = 0; h < heads_; ++h)
      for (int64_t p = 0; p < count; ++p)
        for (int64_t d = 0; d < width_; d += run) {
          const int64_t read = h * h_from + (begin + p) * p_from + d * d_from;
          const int64_t written = h * h_to + (start + p) * p_to + d * d_to;
          memmove(target + static_cast<size_t>(written) * bytes, source + static_cast<size_t>(read) * bytes,
                 static_cast<size_t>(run) * bytes);
        }
  }
};

// Parts run along a bucket's schedule: a thread for each lane, in which a part waits for those whose tensors it reads.
class Schedule {
 public:
  vector<string> parts;  // in an order in which they can run one by one

  explicit Schedule(const Json& bucket) {
    for (const Json& one : bucket["parts"].as_list()) parts.push_back(one.as_text());
    const Json* entry = bucket.find("schedule");
    if (!entry) {
      lanes_.push_back(parts);
      return;
    }
    for (const auto& [_, lane] : (*entry)["lanes"].table) {
      lanes_.emplace_back();
      for (const Json& one : lane.as_list()) lanes_.back().push_back(one.as_text());
    }
    for (const Json& edge : (*entry)["edges"].as_list()) makers_[edge["to"].as_text()].insert(edge["from"].as_text());
  }

  bool alone() const { return lanes_.size() == 1; }

  void run(const std::function<void(const string&)>& part) {
    if (alone()) {
      for (const string& one : parts) part(one);
      return;
    }
    done_.clear();
    error_ = nullptr;
    vector<std::thread> threads;
    for (const vector<string>& lane : lanes_) threads.emplace_back([&] { run_lane(lane, part); });
    for (std::thread& one : threads) one.join();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  vector<vector<string>> lanes_;
  std::map<string, std::set<string>> makers_;
  std::set<string> done_;
  std::exception_ptr error_;
  std::mutex lock_;
  std::condition_variable changed_;

  void run_lane(const vector<string>& lane, const std::function<void(const string&)>& part) {
    for (const string& one : lane) {
      {
        std::unique_lock<std::mutex> held(lock_);
        auto ready = [&] {
          auto found = makers_.find(one);
          return error_ || found == makers_.end() ||
                 std::includes(done_.begin(), done_.end(), found->second.begin(), found->second.end());
        };
        changed_.wait(held, ready);
        if (error_) return;
      }
      std::exception_ptr failed;
      try {
        part(one);
      } catch (...) {
        failed = std::current_exception();
      }
      std::lock_guard<std::mutex> held(lock_);
      if (failed && !error_) error_ = failed;
      done_.insert(one);
      changed_.notify_all();
    }
  }
};

// A model made of parts: each call runs the graphs of one bucket.
class Chain : public Model {
 public:
  int64_t step = 0;  // calls of at most so many tokens use the bucket of `step` tokens while it fits

  // Tokens of the bucket that rounds of `tokens` go through from here on.
  int64_t step_by(int64_t tokens) { return step = buckets_.at_least(tokens); }

  Chain(const Bundle& bundle, const string& name, Engines& engines)
      : bundle_(bundle),
        entry_(bundle.model(name)),
        arch_(entry_["arch"]),
        engines_(engines),
        buckets_(entry_["buckets"].as_list(), arch_["context"].as_int()),
        cache_(arch_, entry_["kv"], buckets_.context, own_layouts(name)) {
    vocab = arch_["vocab"].as_int(), context = buckets_.context;
    for (const Json& one : entry_["buckets"].as_list()) {
      rows_[one["name"].as_text()] = &one;
      schedules_[one["name"].as_text()] = std::make_unique<Schedule>(one);
    }
  }
  ~Chain() override {
    for (auto& [_, session] : sessions_) engines_.ort().close(session);
  }

  int64_t length() const override { return cache_.length; }
  int64_t piece() const override { return buckets_.largest ? buckets_.largest : Model::piece(); }
  bool fits(int64_t count) const override { return count == 0 || !plan(count).empty(); }
  void rollback(int64_t length) override {
    const int64_t left = std::max<int64_t>(0, length - text_length());
    if (left < static_cast<int64_t>(tree_.size())) tree_.resize(static_cast<size_t>(left));
    cache_.length = std::min(cache_.length, length);
  }

  vector<float> forward(const vector<int64_t>& ids) override {
    if (!tree_.empty()) keep({});
    return read(ids, {});
  }

  bool branches() const override { return true; }
  vector<float> grow(const vector<int64_t>& ids, const vector<int64_t>& parents) override { return read(ids, parents); }
  void keep(const vector<int64_t>& slots) override {
    cache_.compact(text_length(), slots);
    tree_.clear();
  }

 private:
  int64_t text_length() const { return cache_.length - static_cast<int64_t>(tree_.size()); }

  vector<float> read(const vector<int64_t>& ids, const vector<int64_t>& parents) {
    check_ids(ids);
    vector<int64_t> calls = plan(static_cast<int64_t>(ids.size()));
    if (calls.empty())
      refuse(std::to_string(cache_.length) + " of " + std::to_string(context) +
             " positions are taken: " + std::to_string(ids.size()) + " more tokens do not fit");
    vector<float> made;
    auto from = ids.begin();
    for (int64_t slots : calls) {
      auto end = from + std::min<int64_t>(slots, ids.end() - from);
      if (!parents.empty())
        tree_.insert(tree_.end(), parents.begin() + (from - ids.begin()), parents.begin() + (end - ids.begin()));
      vector<float> rows =
          call({from, end}, buckets_.dynamic.empty() ? buckets_.choose(slots, cache_.length)->name : buckets_.dynamic);
      made.insert(made.end(), rows.begin(), rows.end());
      from = end;
    }
    return made;
  }

  const Bundle& bundle_;
  const Json &entry_, &arch_;
  Engines& engines_;
  Buckets buckets_;
  std::map<string, Json> parts_;  // of several chips those of this one; filled for `cache_`
  KvCache cache_;
  std::map<string, const Json*> rows_;
  std::map<string, std::unique_ptr<Schedule>> schedules_;
  std::map<std::pair<string, string>, Ort::Opaque> sessions_;
  std::mutex lock_;
  vector<int64_t> tree_;  // parents of the slots behind the text, while a tree is in the cache

  std::map<string, const Json*> own_layouts(const string& name) {
    std::map<string, const Json*> found;
    for (const auto& [part_name, part] : bundle_.manifest["parts"].table) {
      if (part["model"].as_text() != name) continue;
      parts_[part_name] = of_device(part);
      const Json* kv = part.find("kv");
      for (const auto& [_, graph] : part["graphs"].table)
        for (const Json& spec : graph["inputs"].as_list())
          if (const string& tensor = spec["name"].as_text();
              kv && tensor.size() > 3 && tensor.compare(tensor.size() - 3, 3, "_in") == 0)
            found[tensor.substr(0, tensor.size() - 3)] = kv;
    }
    return found;
  }

  // A part with the files of the chip that is run on.
  Json of_device(const Json& part) const {
    const Json* chips = part.find("chips");
    const Json* own = chips ? chips->find(bundle_.device) : nullptr;
    Json made = part;
    if (!own) return made;
    set(made, "file", (*own)["file"]);
    set(made, "details", (*own)["details"]);
    for (auto& [key, graphs] : made.table)
      if (key == "graphs")
        for (auto& [bucket, graph] : graphs.table)
          for (const auto& [name, value] : (*own)["graphs"][bucket].table) set(graph, name, value);
    return made;
  }
  static void set(Json& table, const string& key, const Json& value) {
    for (auto& [name, held] : table.table)
      if (name == key) {
        held = value;
        return;
      }
    table.table.emplace_back(key, value);
  }

  vector<int64_t> plan(int64_t count) const {
    if (!buckets_.dynamic.empty()) return cache_.length + count <= context ? vector<int64_t>{count} : vector<int64_t>{};
    if (step && count <= step && buckets_.choose(step, cache_.length)) return {step};
    return buckets_.plan(count, cache_.length);
  }

  vector<float> call(const vector<int64_t>& ids, const string& bucket) {
    const Json& row = *rows_.at(bucket);
    const int64_t count = static_cast<int64_t>(ids.size()), length = cache_.length;
    const int64_t slots = row.find("tokens") ? row["tokens"].as_int() : count;
    const int64_t past = row.find("tokens") ? row["context"].as_int() - slots : length;
    std::map<string, Tensor> values = made_here(ids, slots, length, past);
    cache_.feed(past, values);
    Schedule& schedule = *schedules_.at(bucket);
    for (const string& part : schedule.parts) session(part, bucket);  // opening one would hold up its lane alone
    schedule.run([&](const string& part) { run_part(part, bucket, values); });
    cache_.append(values, count);
    auto found = values.find("logits");
    if (found == values.end() || found->second.dtype != "float32" ||
        found->second.count() != static_cast<size_t>(slots * vocab))
      broken("bucket `" + bucket + "` gives no " + std::to_string(vocab) + " logits a token");
    const float* logits = found->second.as<float>();
    if (!std::all_of(logits, logits + count * vocab, [](float one) { return std::isfinite(one); }))
      broken("bucket `" + bucket + "` gives logits that are no numbers: `edgec verify` tells which part is wrong");
    return {logits, logits + count * vocab};
  }

  void run_part(const string& name, const string& bucket, std::map<string, Tensor>& values) {
    const Json& graph = parts_.at(name)["graphs"][bucket];
    vector<std::pair<string, Tensor>> inputs;
    vector<string> outputs;
    for (const Json& spec : graph["inputs"].as_list()) {
      Tensor value;
      {
        std::lock_guard<std::mutex> held(lock_);
        auto found = values.find(spec["name"].as_text());
        if (found == values.end())
          broken("part `" + name + "` reads `" + spec["name"].as_text() + "`, which nothing before it makes");
        value = found->second;
      }
      inputs.emplace_back(spec["name"].as_text(), as_input(value, spec));
    }
    const vector<Json>& specs = graph["outputs"].as_list();
    for (const Json& spec : specs) outputs.push_back(spec["name"].as_text());
    vector<Tensor> made = engines_.ort().run(session(name, bucket), inputs, outputs);
    for (size_t i = 0; i < made.size(); ++i) {
      Tensor value = cache_.holds(outputs[i]) ? made[i] : as_float(made[i], specs[i]);
      std::lock_guard<std::mutex> held(lock_);
      values[outputs[i]] = value;
    }
  }

  Ort::Opaque session(const string& part, const string& bucket) {
    {
      std::lock_guard<std::mutex> held(lock_);
      if (auto found = sessions_.find({part, bucket}); found != sessions_.end()) return found->second;
    }
    Ort::Opaque made = engines_.open(part, parts_.at(part), bucket);
    std::lock_guard<std::mutex> held(lock_);
    return sessions_[{part, bucket}] = made;
  }

  // The inputs that no part makes, for `ids` in the first of `slots` slots; `length` of `past` past positions are
  // filled. Each token of a tree, whose last ones `ids` are, has the position of its depth and sees its own path alone.
  std::map<string, Tensor> made_here(const vector<int64_t>& ids, int64_t slots, int64_t length, int64_t past) const {
    const vector<Json>& frequencies = arch_["rope"]["inverse_frequencies"].as_list();
    const float factor = static_cast<float>(arch_["rope"]["attention_factor"].as_number());
    const int64_t half = static_cast<int64_t>(frequencies.size());
    Tensor tokens = Tensor::zeros("int64", {1, slots}), positions = tokens;
    positions.data = std::make_shared<vector<char>>(tokens.data->size());
    Tensor cosine = Tensor::zeros("float32", {1, 1, slots, half}), sine = Tensor::zeros("float32", {1, 1, slots, half});
    Tensor mask = Tensor::zeros("float32", {1, 1, slots, past + slots});
    std::copy(ids.begin(), ids.end(), tokens.as<int64_t>());
    const int64_t count = static_cast<int64_t>(ids.size());
    const int64_t base = length + count - static_cast<int64_t>(tree_.size());  // of the text, where there is a tree
    for (int64_t slot = 0; slot < slots; ++slot) {
      const vector<int64_t> path =
          slot < count && !tree_.empty() ? path_to(length - base + slot) : vector<int64_t>{};
      const int64_t place = path.empty() ? length + slot : base + static_cast<int64_t>(path.size()) - 1;
      positions.as<int64_t>()[slot] = place;
      for (int64_t i = 0; i < half; ++i) {
        const float angle =
            static_cast<float>(place) * static_cast<float>(frequencies[static_cast<size_t>(i)].as_number());
        cosine.as<float>()[slot * half + i] = std::cos(angle) * factor;
        sine.as<float>()[slot * half + i] = std::sin(angle) * factor;
      }
      float* row = mask.as<float>() + slot * (past + slots);
      for (int64_t at = 0; at < past + slots; ++at)
        row[at] = at < (path.empty() ? length : base) || (path.empty() && at >= past && at <= past + slot) ? 0.0f
                                                                                                           : -1000.0f;
      for (int64_t one : path) row[base + one < length ? base + one : past + base + one - length] = 0.0f;
    }
    return {{"input_ids", tokens},
            {"position_ids", positions},
            {"position_ids_cos", cosine},
            {"position_ids_sin", sine},
            {"attention_mask", mask}};
  }

  // A slot of the tree and those above it.
  vector<int64_t> path_to(int64_t slot) const {
    vector<int64_t> made;
    for (; slot >= 0; slot = tree_[static_cast<size_t>(slot)]) made.push_back(slot);
    return made;
  }
};

#ifdef EDGEC_MNN
// A model that MNN's LLM engine runs whole, with its own cache.
class Mnn : public Model {
 public:
  Mnn(const Bundle& bundle, const string& name) {
    const Json& arch = bundle.model(name)["arch"];
    vocab = arch["vocab"].as_int(), context = arch["context"].as_int();
    string config;
    for (const auto& [_, part] : bundle.manifest["parts"].table)
      if (part["model"].as_text() == name) config = part["file"].as_text();
    const string folder = config.substr(0, config.rfind('/') + 1);
    for (const auto& [file, _] : bundle.manifest["files"].table)
      if (file.compare(0, folder.size(), folder) == 0) bundle.checked(file);
    engine_.reset(MNN::Transformer::Llm::createLLM(bundle.checked(config)));
    // logits of every token, which verification needs; MNN's own generate is never called
    if (!engine_ || !engine_->set_config("{\"all_logits\": true, \"async\": false}") || !engine_->load())
      broken("MNN refuses to load `" + config + "`");
    engine_->generate_init();
  }

  int64_t length() const override { return length_; }
  bool fits(int64_t count) const override { return length_ + count <= context; }

  vector<float> forward(const vector<int64_t>& ids) override {
    check_ids(ids);
    auto logits = engine_->forward(vector<int>(ids.begin(), ids.end()));
    const auto* info = logits == nullptr ? nullptr : logits->getInfo();
    const float* rows = info ? logits->readMap<float>() : nullptr;
    const size_t wanted = ids.size() * static_cast<size_t>(vocab);
    if (!rows || static_cast<size_t>(info->size) != wanted)
      broken("MNN gives no " + std::to_string(vocab) + " logits a token");
    length_ += static_cast<int64_t>(ids.size());
    return {rows, rows + wanted};
  }

  void rollback(int64_t length) override {
    if (length >= length_) return;
    if (length == 0)
      engine_->reset();
    else
      engine_->eraseHistory(static_cast<size_t>(length), 0);
    length_ = length;
  }

 private:
  struct Destroy {
    void operator()(MNN::Transformer::Llm* engine) const { MNN::Transformer::Llm::destroy(engine); }
  };
  std::unique_ptr<MNN::Transformer::Llm, Destroy> engine_;
  int64_t length_ = 0;
};
#endif

std::unique_ptr<Model> open_model(const Bundle& bundle, const string& name, Engines& engines) {
  const Json& entry = bundle.model(name);
  if (entry["kind"].as_text() != "decoder")
    refuse("`" + name + "` is no language model: this runner runs nothing else");
  const string& engine = entry["engine"].as_text();
  if (engine == "chain") return std::make_unique<Chain>(bundle, name, engines);
#ifdef EDGEC_MNN
  if (engine == "mnn-llm") return std::make_unique<Mnn>(bundle, name);
#endif
  refuse("`" + name + "` runs in " + engine +
         (engine == "mnn-llm" ? ": build the runner with -DEDGEC_MNN" : ", which this runner does not have"));
}

// ---------------------------------------------------------------------------------------------------------- generation

struct Outcome {
  vector<int64_t> tokens;
  int64_t rounds = 0, drafted = 0, accepted = 0;
  int64_t ready = 0, waited = 0;  // rounds whose drafts were there at once; calls of the draft that the target waited for
  string stopped;
  double prompt_seconds = 0, seconds = 0;
};

int64_t largest(const float* row, int64_t count) { return std::max_element(row, row + count) - row; }

// Random numbers as NumPy's `default_rng(seed)` draws them: PCG64 (O'Neill 2014, XSL-RR of 128 bits), whose state comes
// from the words of the seed by SeedSequence (numpy/random/bit_generator.pyx).
class Random {
 public:
  explicit Random(const vector<uint64_t>& seeds) {
    vector<uint32_t> words;
    for (uint64_t seed : seeds) {
      words.push_back(static_cast<uint32_t>(seed));
      if (seed >> 32) words.push_back(static_cast<uint32_t>(seed >> 32));
    }
    uint32_t pool[4], factor = 0x43b0d7e5u;
    auto hashed = [&](uint32_t value) {
      value ^= factor;
      factor *= 0x931e8875u;
      value *= factor;
      return value ^ (value >> 16);
    };
    auto mixed = [](uint32_t one, uint32_t other) {
      const uint32_t both = 0xca01f9ddu * one - 0x4973f715u * other;
      return both ^ (both >> 16);
    };
    for (size_t i = 0; i < 4; ++i) pool[i] = hashed(i < words.size() ? words[i] : 0);
    for (size_t from = 0; from < 4; ++from)
      for (size_t to = 0; to < 4; ++to)
        if (from != to) pool[to] = mixed(pool[to], hashed(pool[from]));
    for (size_t from = 4; from < words.size(); ++from)
      for (uint32_t& to : pool) to = mixed(to, hashed(words[from]));
    uint32_t made[8];
    factor = 0x8b51f9ddu;
    for (size_t i = 0; i < 8; ++i) {
      uint32_t value = pool[i % 4] ^ factor;
      factor *= 0x58f38dedu;
      value *= factor;
      made[i] = value ^ (value >> 16);
    }
    auto wide = [&](size_t i) {  // two words of 64 bits, the high one first, each of two of 32, the low one first
      const uint64_t high = made[i] | uint64_t(made[i + 1]) << 32, low = made[i + 2] | uint64_t(made[i + 3]) << 32;
      return static_cast<Wide>(high) << 64 | low;
    };
    step_ = wide(4) << 1 | 1;
    state_ = step_ + wide(0);
    advance();
  }

  // A number of 53 bits, at least 0 and below 1.
  double next() {
    advance();
    const uint64_t both = static_cast<uint64_t>(state_ >> 64) ^ static_cast<uint64_t>(state_);
    const int by = static_cast<int>(state_ >> 122);
    return static_cast<double>((both >> by | both << (-by & 63)) >> 11) * 0x1p-53;
  }

 private:
  __extension__ typedef unsigned __int128 Wide;
  Wide state_, step_;

  void advance() {
    state_ = state_ * (static_cast<Wide>(0x2360ed051fc65da4ull) << 64 | 0x4385df649fccf645ull) + step_;
  }
};

using Chances = vector<double>;

// From scores to a distribution and from distributions to tokens, as docs/running.md says.
struct Sampling {
  double temperature = 0.0, top_p = 1.0;  // temperature 0: greedy
  int64_t top_k = 0;                      // 0: no limit

  bool greedy() const { return temperature == 0; }

  // softmax(scores / temperature), cut to the top_k largest, then to the smallest set whose mass reaches top_p.
  Chances distribution(const float* scores, int64_t count) const {
    Chances p(static_cast<size_t>(count), 0.0);
    const int64_t best = largest(scores, count);
    if (greedy()) {
      p[static_cast<size_t>(best)] = 1.0;
      return p;
    }
    for (size_t i = 0; i < p.size(); ++i) p[i] = std::exp((double(scores[i]) - double(scores[best])) / temperature);
    vector<size_t> order(p.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
    if (top_k > 0)
      for (size_t i = static_cast<size_t>(top_k); i < order.size(); ++i) p[order[i]] = 0.0;
    scale(p);
    double reached = 0.0;
    for (size_t at : order) {
      const double before = reached;
      reached += p[at];
      if (before >= top_p) p[at] = 0.0;  // the token that reaches top_p stays
    }
    scale(p);
    return p;
  }

  static void scale(Chances& p) {
    double whole = 0.0;
    for (double one : p) whole += one;
    for (double& one : p) one /= whole;
  }
};

// A token distributed as `p`; a certain one uses no randomness.
int64_t draw(const Chances& p, Random& random) {
  const auto best = std::max_element(p.begin(), p.end());
  if (*best == 1.0) return best - p.begin();
  Chances until(p.size());
  double whole = 0.0;
  for (size_t i = 0; i < p.size(); ++i) until[i] = whole += p[i];
  for (double& one : until) one /= whole;
  return std::upper_bound(until.begin(), until.end(), random.next()) - until.begin();
}

// Whether the draft `token` ~ q stands with the target's p; if not, p becomes what is left for the token in its place.
bool stands(int64_t token, Chances& p, Chances q, Random& random) {
  p.resize(std::max(p.size(), q.size()), 0.0);
  q.resize(p.size(), 0.0);
  const size_t at = static_cast<size_t>(token);
  Chances rest(p.size());
  bool any = false;
  for (size_t i = 0; i < p.size(); ++i) any |= (rest[i] = std::max(p[i] - q[i], 0.0)) > 0;
  if (p[at] >= q[at] || !any || random.next() * q[at] < p[at]) return true;
  Sampling::scale(rest);
  p = rest;
  return false;
}

// Drafts out of the text: what followed its last three tokens when they stood there before (docs/running.md).
class PromptLookup {
 public:
  // Up to `count` tokens that may follow, none where nothing is found.
  vector<int64_t> guess(const vector<int64_t>& text, int64_t count) {
    const int64_t at = place(text), size = static_cast<int64_t>(text.size());
    vector<int64_t> guess;
    while (at >= 0 && static_cast<int64_t>(guess.size()) < count) {
      const int64_t ahead = at + static_cast<int64_t>(guess.size());
      guess.push_back(ahead < size ? text[size_t(ahead)] : guess[size_t(ahead - size)]);  // a text that goes round
    }
    return guess;
  }

  // The same, and none where the draft model does better.
  vector<int64_t> propose(const vector<int64_t>& text, int64_t count) {
    const int64_t at = place(text);
    const vector<int64_t> found = guess(text, count);
    const bool good = mean(true, -1.0) >= mean(false, 0.0);
    if (at < 0 || good || alike(text, at)) {
      unused_.clear();
      return found;
    }
    unused_ = found;
    return {};
  }

  // What became of a round: `accepted` drafts stood, from here or from the model, and the text went on with `fresh`.
  void told(bool own, int64_t accepted, const vector<int64_t>& fresh) {
    note(own, accepted);
    if (unused_.empty()) return;
    int64_t right = 0;
    for (const size_t most = std::min(unused_.size(), fresh.size());
         right < static_cast<int64_t>(most) && unused_[size_t(right)] == fresh[size_t(right)];)
      ++right;
    note(true, right);
  }

 private:
  static constexpr size_t GRAM = 3, LONG = 12;
  static constexpr double KEPT = 0.7;
  std::map<vector<int64_t>, int64_t> behind_;  // three tokens -> where the latest of them end
  size_t done_ = GRAM;
  std::map<bool, double> stood_;
  vector<int64_t> unused_;

  double mean(bool own, double unknown) const {
    const auto found = stood_.find(own);
    return found == stood_.end() ? unknown : found->second;
  }

  void note(bool own, int64_t accepted) {
    stood_[own] = KEPT * mean(own, double(accepted)) + (1 - KEPT) * double(accepted);
  }

  int64_t place(const vector<int64_t>& text) {
    for (size_t end = done_; end < text.size(); ++end) behind_[gram(text, end)] = static_cast<int64_t>(end);
    done_ = std::max(done_, text.size());
    if (text.size() <= GRAM) return -1;
    const auto found = behind_.find(gram(text, text.size()));
    return found == behind_.end() ? -1 : found->second;
  }

  static vector<int64_t> gram(const vector<int64_t>& text, size_t end) {
    return {text.begin() + static_cast<int64_t>(end - GRAM), text.begin() + static_cast<int64_t>(end)};
  }

  static bool alike(const vector<int64_t>& text, int64_t at) {
    return at >= int64_t(LONG) && std::equal(text.end() - LONG, text.end(), text.begin() + at - int64_t(LONG));
  }
};

// --------------------------------------------------------------------------------------------------- trees of drafts

constexpr int64_t ROOT = -1;  // the end of the text

// Drafts below the text's end, parents first; children are tried in the order in which they came. A chain is a tree.
class Tree {
 public:
  struct Node {
    int64_t token, parent;
    double value;                      // the draft's chance that everything down to it stands
    std::shared_ptr<const Chances> q;  // what it was drawn from; none where its source proposed nothing else
  };
  using Likely = vector<std::pair<int64_t, double>>;  // (token, chance), the likeliest first

  vector<Node> nodes;
  vector<std::pair<int64_t, Likely>> likely;  // of the nodes that were read: what the draft thinks comes after them

  int64_t add(int64_t token, int64_t parent, double value, std::shared_ptr<const Chances> q = nullptr) {
    children_[parent].push_back(size());
    nodes.push_back({token, parent, value, std::move(q)});
    return size() - 1;
  }
  int64_t size() const { return static_cast<int64_t>(nodes.size()); }
  const Node& at(int64_t node) const { return nodes[static_cast<size_t>(node)]; }
  double value(int64_t node) const { return node == ROOT ? 1.0 : at(node).value; }

  const vector<int64_t>& children(int64_t node) const {
    static const vector<int64_t> none;
    const auto found = children_.find(node);
    return found == children_.end() ? none : found->second;
  }
  // The child of `node` that stands for `token`, ROOT if there is none.
  int64_t child(int64_t node, int64_t token) const {
    for (int64_t one : children(node))
      if (at(one).token == token) return one;
    return ROOT;
  }
  vector<int64_t> path(int64_t node) const {  // from below the root
    vector<int64_t> made;
    for (; node != ROOT; node = at(node).parent) made.push_back(node);
    return {made.rbegin(), made.rend()};
  }
  const Likely* known(int64_t node) const {
    for (const auto& [one, rows] : likely)
      if (one == node) return &rows;
    return nullptr;
  }
  void read(int64_t node, Likely rows) {
    for (auto& [one, held] : likely)
      if (one == node) {
        held = std::move(rows);
        return;
      }
    likely.emplace_back(node, std::move(rows));
  }
  bool chain() const {
    for (int64_t node = 0; node < size(); ++node)
      if (at(node).parent != node - 1) return false;
    return true;
  }

  // The first `most` of the nodes that lie at most `depth` below the root.
  Tree cut(int64_t depth, int64_t most) const {
    vector<int64_t> kept;
    for (int64_t node = 0; node < size() && static_cast<int64_t>(kept.size()) < most; ++node)
      if (static_cast<int64_t>(path(node).size()) <= depth) kept.push_back(node);
    return only(kept, ROOT);
  }
  // What hangs below `node`, as a tree of its own.
  Tree below(int64_t node) const {
    std::set<int64_t> inside = {node};
    vector<int64_t> kept;
    for (int64_t one = 0; one < size(); ++one)
      if (at(one).parent != ROOT && inside.count(at(one).parent)) inside.insert(one), kept.push_back(one);
    return only(kept, node);
  }

 private:
  std::map<int64_t, vector<int64_t>> children_;

  Tree only(const vector<int64_t>& kept, int64_t root) const {
    std::map<int64_t, int64_t> place = {{root, ROOT}};
    const double whole = value(root);
    Tree made;
    for (int64_t old : kept) {
      const Node& node = at(old);
      place[old] = made.add(node.token, place.at(node.parent), whole != 0.0 ? node.value / whole : 0.0, node.q);
    }
    for (const auto& [node, rows] : likely)
      if (const auto found = place.find(node); found != place.end()) made.likely.emplace_back(found->second, rows);
    return made;
  }
};

// How a draft makes a tree of up to `size` nodes below `root` by `calls` rows of scores (docs/running.md): the likeliest
// node that waits is read next, its continuations wait too; without `siblings` a chain.
class Growth {
 public:
  static constexpr int64_t LIKELY = 32;    // continuations of a node that are looked at
  static constexpr double STANDS = 0.7;    // of drawn tokens, about what small drafts of one family reach
  static constexpr int64_t MADE = -2;      // wanted: nothing

  Growth(Tree& tree, int64_t root, int64_t size, int64_t calls, bool siblings, const Sampling& sampling,
         const vector<uint64_t>& seeds)
      : tree_(&tree), root_(root), left_(size), calls_(calls), siblings_(siblings), sampling_(&sampling), random_(seeds) {}

  // The node whose scores `take` is to get next, the root first.
  int64_t wanted() {
    if (left_ <= 0 || calls_ <= 0) {
      fill();
      return MADE;
    }
    if (!begun_) return root_;
    while (!waiting_.empty() && left_ > 0)
      if (int64_t made = grow(); left_ > 0) return made;
    return MADE;
  }

  void take(int64_t node, const float* row, int64_t count) {
    calls_ -= 1, begun_ = true;
    Tree::Likely rows = most_likely(row, count, sampling_->greedy());
    tree_->read(node, std::move(rows));
    if (!sampling_->greedy()) rest_[node] = sampling_->distribution(row, count);
    wait(node);
  }

  // Fills the tree from what waits; false where later draws would differ from those of more rows.
  bool fill() {
    while (left_ > 0 && !waiting_.empty()) grow();
    return sampling_->greedy();
  }

  // The likeliest tokens with the chance of each to be the target's; greedily the root of the first one's probability.
  static Tree::Likely most_likely(const float* row, int64_t count, bool greedy) {
    const int64_t best = largest(row, count), most = std::min(LIKELY, count);
    Chances p(static_cast<size_t>(count));
    double whole = 0.0;
    for (size_t i = 0; i < p.size(); ++i) whole += p[i] = std::exp(double(row[i]) - double(row[best]));
    vector<int64_t> order(p.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i), p[i] /= whole;
    std::partial_sort(order.begin(), order.begin() + most, order.end(), [&](int64_t a, int64_t b) {
      return p[size_t(a)] != p[size_t(b)] ? p[size_t(a)] > p[size_t(b)] : a < b;
    });
    Tree::Likely made;
    const double first = p[size_t(order[0])], rest = 1.0 - first;
    for (int64_t i = 0; i < most; ++i) {
      double chance = p[size_t(order[size_t(i)])];
      if (greedy && rest > 0) chance = i ? chance * ((1.0 - std::sqrt(first)) / rest) : std::sqrt(first);
      made.emplace_back(order[size_t(i)], chance);
    }
    return made;
  }

 private:
  struct Waiting {
    double chance;
    int64_t number, parent;  // the node whose next continuation it is
    bool operator<(const Waiting& other) const {
      return chance != other.chance ? chance < other.chance : number > other.number;
    }
  };
  Tree* tree_;
  int64_t root_, left_, calls_;
  bool siblings_, begun_ = false;
  const Sampling* sampling_;
  Random random_;
  std::priority_queue<Waiting> waiting_;
  std::map<int64_t, Chances> rest_;  // node -> what its next continuation is drawn from
  int64_t number_ = 0;

  int64_t grow() {
    const auto [chance, _, parent] = waiting_.top();
    waiting_.pop();
    int64_t made;
    if (sampling_->greedy()) {
      made = tree_->add((*tree_->known(parent))[tree_->children(parent).size()].first, parent, chance);
    } else {
      Chances& rest = rest_[parent];
      const int64_t token = draw(rest, random_);
      made = tree_->add(token, parent, chance, std::make_shared<const Chances>(rest));
      rest[size_t(token)] = 0.0;
      if (any(rest)) Sampling::scale(rest);
    }
    left_ -= 1;
    if (siblings_) wait(parent);
    return made;
  }

  void wait(int64_t parent) {
    const size_t rank = tree_->children(parent).size();
    double chance = tree_->value(parent);
    if (sampling_->greedy()) {
      const Tree::Likely& rows = *tree_->known(parent);
      if (rank == rows.size()) return;
      chance *= rows[rank].second;
    } else {
      if (!any(rest_[parent])) return;
      chance = chance * STANDS * std::pow(1 - STANDS, double(rank));
    }
    waiting_.push({chance, ++number_, parent});
  }

  static bool any(const Chances& p) {
    return std::any_of(p.begin(), p.end(), [](double one) { return one != 0.0; });
  }
};

// Reads nodes of a tree below what a model holds now: side by side in the cache of one that takes trees, where many cost
// one call, or one path at a time, for which the cache is cut back to where it leaves the path before.
class Branches {
 public:
  explicit Branches(Model& model) : model_(model), at_once(model.branches()), base_(model.length()) {}

 private:
  Model& model_;

 public:
  const bool at_once;

  // The scores [nodes, vocab] of what follows each of `nodes`, none of which was read; nothing where they do not fit.
  std::optional<vector<float>> rows(const Tree& tree, const vector<int64_t>& nodes) {
    return at_once ? together(tree, nodes) : apart(tree, nodes);
  }

  // Makes the beginning of `path` that was read part of the text, and forgets all else.
  void keep(const vector<int64_t>& path) {
    if (at_once) {
      vector<int64_t> read;
      for (int64_t node : path) {
        const auto found = slots_.find(node);
        if (found == slots_.end()) break;
        read.push_back(found->second);
      }
      model_.keep(read);
      slots_.clear();
    } else {
      cut(alike(path));
      base_ = model_.length();
      held_.clear();
    }
  }

 private:
  int64_t base_;
  std::map<int64_t, int64_t> slots_;
  vector<int64_t> held_;

  std::optional<vector<float>> together(const Tree& tree, const vector<int64_t>& nodes) {
    std::set<int64_t> order;
    for (int64_t node : nodes)
      for (int64_t above : tree.path(node))
        if (!slots_.count(above)) order.insert(above);
    if (!model_.fits(static_cast<int64_t>(order.size()))) return std::nullopt;
    vector<int64_t> tokens, parents;
    std::map<int64_t, int64_t> place;
    for (int64_t node : order) {
      const int64_t slot = static_cast<int64_t>(slots_.size()), parent = tree.at(node).parent;
      parents.push_back(parent == ROOT ? ROOT : slots_.at(parent));
      place[node] = static_cast<int64_t>(tokens.size());
      tokens.push_back(tree.at(node).token);
      slots_[node] = slot;
    }
    const vector<float> logits = model_.grow(tokens, parents);
    vector<float> made;
    for (int64_t node : nodes) {
      const auto from = logits.begin() + place.at(node) * model_.vocab;
      made.insert(made.end(), from, from + model_.vocab);
    }
    return made;
  }

  std::optional<vector<float>> apart(const Tree& tree, const vector<int64_t>& nodes) {
    vector<float> made;
    for (int64_t node : nodes) {
      const vector<int64_t> path = tree.path(node);
      cut(std::min(alike(path), path.size() - 1));  // its own scores come from reading it
      const vector<int64_t> rest(path.begin() + static_cast<int64_t>(held_.size()), path.end());
      if (!model_.fits(static_cast<int64_t>(rest.size()))) return std::nullopt;
      vector<int64_t> tokens;
      for (int64_t one : rest) tokens.push_back(tree.at(one).token);
      const vector<float> logits = model_.forward(tokens);
      made.insert(made.end(), logits.end() - model_.vocab, logits.end());
      held_.insert(held_.end(), rest.begin(), rest.end());
    }
    return made;
  }

  size_t alike(const vector<int64_t>& path) const {
    size_t count = 0;
    while (count < path.size() && count < held_.size() && path[count] == held_[count]) ++count;
    return count;
  }

  void cut(size_t count) {
    held_.resize(std::min(held_.size(), count));
    const int64_t left = base_ + static_cast<int64_t>(count);
    if (model_.length() > left) model_.rollback(left);
  }
};

// What a decoder does for the draft that works ahead.
struct Hooks {
  std::function<std::optional<vector<float>>(bool known)> read_text;  // the draft holds the text then; its scores after it
  std::function<Growth(Tree&, int64_t root, int64_t after)> grow;
  std::function<bool(double chance)> worth;  // whether the target should wait for a call, by the chance of its node
};

// While the target verifies a tree, the draft makes those of the next round, for the likeliest outcomes: nodes that stand
// and a token that is none of their children (docs/running.md). The tree of the outcome that came is then finished as far
// as waiting for it pays.
class Ahead {
 public:
  static constexpr size_t PREPARED = 64;  // outcomes at most

  // `width`: nodes that one call reads, where the draft takes several; `pace`: calls beside the target, if not by the clock.
  Ahead(const Tree& tree, Model& draft, int64_t vocab, Hooks hooks, int64_t width, bool greedy,
        std::optional<int64_t> pace)
      : tree_(tree.cut(tree.size(), tree.size())),
        own_(tree.size()),
        draft_(draft),
        vocab_(vocab),
        hooks_(std::move(hooks)),
        width_(width),
        greedy_(greedy),
        pace_(pace) {}

  int64_t waited = 0;
  double late = 0;  // seconds of calls that the target waited for

  // The round ended with the nodes `stood` and then `token`.
  void stop(const vector<int64_t>& stood, int64_t token) {
    std::unique_lock<std::mutex> held(lock_);
    if (pace_) changed_.wait(held, [&] { return idle_; });
    came_ = {stood.empty() ? ROOT : stood.back(), token};
    stopped_ = true;
    changed_.notify_all();
  }

  void cancel() {
    std::lock_guard<std::mutex> held(lock_);
    stopped_ = true;
    changed_.notify_all();
  }

  // In a thread of its own, until `stop`.
  void run() {
    try {
      const std::optional<vector<float>> row = hooks_.read_text(tree_.known(ROOT) != nullptr);
      if (row) {
        calls_ += !row->empty();
        if (!tree_.known(ROOT)) tree_.read(ROOT, likely(row->data()));
        reader_.emplace(draft_);
        prepare(reader_->at_once ? width_ : 1);
      }
    } catch (...) {
      rest();
      throw;
    }
    rest();
    if (!reader_) return;
    {
      std::unique_lock<std::mutex> held(lock_);
      changed_.wait(held, [&] { return stopped_; });
    }
    finish();
  }

  // When `run` has ended: the tree of what came, if it was begun. The draft keeps what it read of it.
  std::optional<Tree> take(const vector<int64_t>& stood) {
    const auto found = outcomes_.find(came_);
    const bool begun = found != outcomes_.end();
    if (reader_) reader_->keep(begun ? tree_.path(found->second.root) : stood);
    return begun ? std::optional<Tree>(tree_.below(found->second.root)) : std::nullopt;
  }

 private:
  struct Prepared {
    int64_t root;
    double chance;
    Growth growth;
    int64_t next;
  };
  struct Waiting {
    double value;
    int64_t number, node, token;  // of an outcome that is not begun; below 0: a node to read
    bool operator<(const Waiting& other) const {
      return value != other.value ? value < other.value : number > other.number;
    }
  };
  using Came = std::pair<int64_t, int64_t>;

  Tree tree_;  // outcomes hang on a copy of the round's
  int64_t own_;
  Model& draft_;
  int64_t vocab_;
  Hooks hooks_;
  int64_t width_;
  bool greedy_;
  std::optional<int64_t> pace_;
  std::map<Came, Prepared> outcomes_;
  std::optional<Branches> reader_;
  std::priority_queue<Waiting> waiting_;
  int64_t number_ = 0, calls_ = 0;
  Came came_ = {ROOT, -1};
  std::mutex lock_;
  std::condition_variable changed_;
  bool stopped_ = false, idle_ = false;

  void prepare(int64_t width) {
    std::map<int64_t, Prepared*> owner;  // of the nodes below an outcome
    for (int64_t node : leaves()) wait(tree_.value(node), node, -1);
    for (size_t i = 0; i < tree_.likely.size(); ++i) wait_after(tree_.likely[i].first);
    while (!waiting_.empty() && has_time()) {
      vector<int64_t> nodes;
      while (!waiting_.empty() && static_cast<int64_t>(nodes.size()) < width) {
        const Waiting next = waiting_.top();
        waiting_.pop();
        if (next.token < 0) {
          nodes.push_back(next.node);
        } else if (Prepared* begun = begin(next.node, next.token); begun && begun->next != Growth::MADE) {
          owner[begun->root] = begun;
          nodes.push_back(begun->root);
        }
      }
      if (nodes.empty()) continue;
      const std::optional<vector<float>> rows = reader_->rows(tree_, nodes);
      if (!rows) return;
      calls_ += 1;
      for (size_t i = 0; i < nodes.size(); ++i) {
        const float* row = rows->data() + static_cast<int64_t>(i) * draft_.vocab;
        const auto found = owner.find(nodes[i]);
        if (found == owner.end()) {
          tree_.read(nodes[i], likely(row));
          wait_after(nodes[i]);
          continue;
        }
        Prepared* outcome = found->second;
        owner.erase(found);
        if (go_on(*outcome, row) == Growth::MADE) continue;
        owner[outcome->next] = outcome;
        const double chance = tree_.value(outcome->next);
        wait(outcome->chance * (hooks_.worth(chance) ? 1.0 : chance), outcome->next, -1);
      }
    }
  }

  void wait(double value, int64_t node, int64_t token) { waiting_.push({value, number_++, node, token}); }
  void wait_after(int64_t node) {
    for (const auto& [token, chance] : *tree_.known(node))
      if (tree_.child(node, token) == ROOT) wait(tree_.value(node) * chance, node, token);
  }

  bool has_time() {
    std::unique_lock<std::mutex> held(lock_);
    if (pace_ && calls_ >= *pace_) {
      idle_ = true;
      changed_.notify_all();
      changed_.wait(held, [&] { return stopped_; });
    }
    return !stopped_;
  }

  void rest() {
    std::lock_guard<std::mutex> held(lock_);
    idle_ = true;
    changed_.notify_all();
  }

  Prepared* begin(int64_t node, int64_t token) {
    if (outcomes_.size() == PREPARED) return nullptr;
    double chance = 0.0;
    for (const auto& [one, own] : *tree_.known(node))
      if (one == token) chance = own;
    const int64_t root = tree_.add(token, node, 1.0);
    Growth growth = hooks_.grow(tree_, root, static_cast<int64_t>(tree_.path(root).size()));
    Prepared made{root, tree_.value(node) * chance, std::move(growth), Growth::MADE};
    made.next = made.growth.wanted();
    return &outcomes_.emplace(Came{node, token}, std::move(made)).first->second;
  }

  int64_t go_on(Prepared& outcome, const float* row) {
    outcome.growth.take(outcome.next, row, vocab_);
    return outcome.next = outcome.growth.wanted();
  }

  void finish() {
    const auto found = outcomes_.find(came_);
    if (found == outcomes_.end()) return;
    Prepared& outcome = found->second;
    const auto begun = std::chrono::steady_clock::now();
    while (outcome.next != Growth::MADE && hooks_.worth(tree_.value(outcome.next))) {
      const std::optional<vector<float>> rows = reader_->rows(tree_, {outcome.next});
      if (!rows) break;
      waited += 1;
      go_on(outcome, rows->data());
    }
    late = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    if (outcome.next != Growth::MADE && !outcome.growth.fill()) outcomes_.erase(found);
  }

  Tree::Likely likely(const float* row) const { return Growth::most_likely(row, vocab_, greedy_); }

  // Nodes of the round's tree that the draft knows, and was not asked what comes after.
  vector<int64_t> leaves() const {
    vector<int64_t> made;
    for (int64_t node = 0; node < own_; ++node) {
      const vector<int64_t> path = tree_.path(node);
      const bool all = std::all_of(path.begin(), path.end(), [&](int64_t one) { return tree_.at(one).token < vocab_; });
      if (!tree_.known(node) && all) made.push_back(node);
    }
    return made;
  }
};

// -------------------------------------------------------------------------------------------------------------- rounds

// How a bundle speculates. `tree`: drafts of a round, 0 for a chain of k; `slots`: of the call that verifies them.
struct Rounds {
  int64_t k = 0, tree = 0, slots = 0, outcomes = 64;
  bool lookup = false, overlap = false;
  std::optional<int64_t> pace;
};

// Rounds of drafts and a call of the target: tokens are distributed as the target's own, greedily they are its own.
class Decoder {
 public:
  Decoder(Model& target, Model* draft, const Rounds& rounds, std::set<int64_t> eos, const Sampling& sampling,
          uint64_t seed)
      : target_(target),
        draft_(draft),
        rounds_(rounds),
        eos_(std::move(eos)),
        sampling_(sampling),
        seed_(seed),
        random_({seed}) {
    if (rounds.lookup && rounds.k > 0) lookup_.emplace();
  }

  Outcome generate(const vector<int64_t>& prompt, int64_t wanted) {
    if (prompt.empty()) refuse("the prompt is empty");
    if (!target_.fits(static_cast<int64_t>(prompt.size())))
      refuse("the prompt has " + std::to_string(prompt.size()) + " tokens, the context of the model " +
             std::to_string(target_.context));
    const double begun = now();
    text_ = prompt;
    if (prompt.size() > 1) target_.feed({prompt.begin(), prompt.end() - 1});
    made_.prompt_seconds = now() - begun;
    made_.stopped = "tokens";
    while (static_cast<int64_t>(made_.tokens.size()) < wanted) {
      if (!target_.fits(1)) {
        made_.stopped = "context";
        break;
      }
      const double start = now();
      const vector<int64_t> fresh = round(wanted - static_cast<int64_t>(made_.tokens.size()));
      round_seconds_ += now() - start;
      for (int64_t token : fresh) {
        made_.tokens.push_back(token);
        if (eos_.count(token)) {
          made_.stopped = "eos";
          made_.seconds = now() - begun;
          return made_;
        }
      }
    }
    made_.seconds = now() - begun;
    return made_;
  }

 private:
  static constexpr double FOUND = 0.6;  // chance of a token found in the text, where outcomes are put in order

  Model& target_;
  Model* draft_;
  Rounds rounds_;
  std::set<int64_t> eos_;
  Sampling sampling_;
  uint64_t seed_;
  Random random_;
  Outcome made_;
  double round_seconds_ = 0, waiting_ = 0;  // of all rounds; of calls of the draft that the target waited for
  std::optional<PromptLookup> lookup_;
  vector<int64_t> text_;
  std::optional<Tree> next_;  // made while the round before was verified
  bool at_once_ = false;      // without waiting for it
  std::optional<Branches> reader_;  // of this round's tree

  static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }

  vector<int64_t> round(int64_t wanted) {
    const vector<int64_t> guess = looked_up(wanted - 1);
    const Tree tree = propose(wanted - 1, guess);
    const auto [stood, token] = verify(tree, wanted - 1);
    vector<int64_t> fresh;
    for (int64_t node : stood) fresh.push_back(tree.at(node).token);
    fresh.push_back(token);
    text_.insert(text_.end(), fresh.begin(), fresh.end());
    const int64_t accepted = static_cast<int64_t>(stood.size());
    if (lookup_ && tree.size()) {
      int64_t right = 0;
      while (right < std::min(accepted, static_cast<int64_t>(guess.size())) &&
             guess[size_t(right)] == fresh[size_t(right)])
        ++right;
      lookup_->told(!guess.empty(), guess.empty() ? accepted : right, fresh);
    }
    made_.rounds += 1;
    made_.drafted += tree.size();
    made_.accepted += accepted;
    return fresh;
  }

  // Beside a tree they are taken in any case, if they go into slots that would be padding.
  vector<int64_t> looked_up(int64_t most) {
    if (!lookup_) return {};
    int64_t count = std::min(rounds_.k, most);
    while (count > 0 && !target_.fits(count + 1)) --count;
    const int64_t free = rounds_.slots - 1 - rounds_.tree;
    if (rounds_.tree && free > 0) return lookup_->guess(text_, std::min(count, free));
    return lookup_->propose(text_, count);
  }

  // The tree of a round of at most `most` accepted tokens, `guess` in it.
  Tree propose(int64_t most, const vector<int64_t>& guess) {
    std::optional<Tree> ready = std::move(next_);
    next_.reset();
    made_.ready += ready && at_once_;
    int64_t size = rounds_.tree ? rounds_.tree : std::min(rounds_.k, most);
    int64_t free = rounds_.tree ? std::max<int64_t>(0, rounds_.slots - 1 - size) : 0;
    for (; size > 0 && !target_.fits(size + 1); --size) free = 0;
    const int64_t found = static_cast<int64_t>(guess.size());
    Tree tree;
    if (guess.empty() || rounds_.tree) tree = ready ? ready->cut(most, std::max<int64_t>(size, 0)) : drafted(most, size);
    if (found > free && rounds_.tree) tree = tree.cut(most, std::max<int64_t>(size + free - found, 0));
    int64_t at = ROOT;
    for (int64_t token : guess) {
      const int64_t known = tree.child(at, token);
      at = known == ROOT ? tree.add(token, at, FOUND * tree.value(at)) : known;
    }
    return tree;
  }

  // A tree made now, before the target is called.
  Tree drafted(int64_t most, int64_t size) {
    Tree tree;
    const double begun = now();
    std::optional<vector<float>> row;
    if (size > 0 && most > 0) row = read_text(false);
    if (!row) return tree;
    reader_.emplace(*draft_);
    Growth growth = growing(tree, ROOT, 0, size, std::min(rounds_.k, most));
    int64_t calls = 0;
    for (int64_t node; (node = growth.wanted()) != Growth::MADE; ++calls) {
      if (node != ROOT) {
        row = worth(tree.value(node)) ? reader_->rows(tree, {node}) : std::nullopt;
        if (!row) {
          growth.fill();
          break;
        }
      }
      growth.take(node, row->data(), std::min(draft_->vocab, target_.vocab));
    }
    made_.waited += calls;
    waiting_ += now() - begun;
    return tree;
  }

  // Whether the target should wait for a call that reads a node of this chance: it brings a token that stands with
  // `STANDS` of it. Only where the draft could do something else with its time; sampled, a tree hangs on the seed alone.
  bool worth(double chance) const {
    const double tokens = static_cast<double>(made_.tokens.size()), waited = static_cast<double>(made_.waited);
    if (!rounds_.overlap || !sampling_.greedy() || tokens == 0) return true;
    double call = waiting_ / std::max(1.0, waited), whole = round_seconds_;
    if (rounds_.pace) {
      const double pace = static_cast<double>(*rounds_.pace);
      call = 1 / pace, whole = static_cast<double>(made_.rounds) + waited / pace;
    }
    return chance * Growth::STANDS * whole / tokens > call;
  }

  // Below a node `after` tokens behind the text. What it draws hangs on the seed and the place in the text.
  Growth growing(Tree& tree, int64_t root, int64_t after, int64_t size, int64_t calls) const {
    return Growth(tree, root, size, calls, rounds_.tree > 0, sampling_,
                  {seed_, text_.size() + static_cast<uint64_t>(after)});
  }

  // The draft's scores after the text, which it then holds, empty where they are `known` and nothing is to be read;
  // nothing if there is no draft, or it has no room, or does not know a token.
  std::optional<vector<float>> read_text(bool known) {
    const int64_t size = static_cast<int64_t>(text_.size());
    if (!draft_) return std::nullopt;
    if (known && draft_->length() == size) return vector<float>{};
    if (draft_->length() == size) draft_->rollback(size - 1);
    const vector<int64_t> unseen(text_.begin() + draft_->length(), text_.end());
    const bool strange = *std::max_element(unseen.begin(), unseen.end()) >= draft_->vocab;
    if (strange || !draft_->fits(static_cast<int64_t>(unseen.size()))) return std::nullopt;
    return draft_->feed(unseen);
  }

  using Stood = std::pair<vector<int64_t>, int64_t>;  // the nodes that stand, and the target's token after them

  Stood verify(const Tree& tree, int64_t most) {
    std::unique_ptr<Ahead> ahead;
    if (rounds_.overlap && draft_ && most > 1) ahead = make_ahead(tree);
    Stood made = ahead ? judged_beside(tree, *ahead) : judged(tree);
    const vector<int64_t>& stood = made.first;
    if (tree.chain()) {
      target_.rollback(static_cast<int64_t>(text_.size() + stood.size()));
    } else {
      vector<int64_t> slots = {0};
      for (int64_t node : stood) slots.push_back(node + 1);
      target_.keep(slots);
    }
    if (ahead) {
      made_.waited += ahead->waited;
      waiting_ += ahead->late;
      next_ = ahead->take(stood);
      at_once_ = next_ && !ahead->waited;
    } else if (reader_) {
      reader_->keep(stood);
    }
    reader_.reset();
    return made;
  }

  std::unique_ptr<Ahead> make_ahead(const Tree& tree) {
    if (reader_) reader_->keep({});
    const int64_t size = rounds_.tree ? rounds_.tree : rounds_.k;
    Hooks hooks{[this](bool known) { return read_text(known); },
                [this, size](Tree& whole, int64_t root, int64_t after) {
                  return growing(whole, root, after, size, rounds_.k);
                },
                [this](double chance) { return worth(chance); }};
    const int64_t both = std::min(draft_->vocab, target_.vocab);
    return std::make_unique<Ahead>(tree, *draft_, both, hooks, rounds_.outcomes, sampling_.greedy(), rounds_.pace);
  }

  // The draft works in a thread of its own; its error is thrown here, if the target has none.
  Stood judged_beside(const Tree& tree, Ahead& ahead) {
    std::exception_ptr failed, other;
    std::thread beside([&] {
      try {
        ahead.run();
      } catch (...) {
        other = std::current_exception();
      }
    });
    Stood made;
    try {
      made = judged(tree);
      ahead.stop(made.first, made.second);
    } catch (...) {
      failed = std::current_exception();
      ahead.cancel();
    }
    beside.join();
    if (failed) std::rethrow_exception(failed);
    if (other) std::rethrow_exception(other);
    return made;
  }

  Stood judged(const Tree& tree) {
    vector<int64_t> asked = {text_.back()}, parents = {ROOT}, stood;
    for (const Tree::Node& node : tree.nodes) {
      asked.push_back(node.token);
      parents.push_back(node.parent + 1);
    }
    const vector<float> logits = tree.chain() ? target_.forward(asked) : target_.grow(asked, parents);
    for (int64_t at = ROOT;;) {
      Chances p = sampling_.distribution(logits.data() + (at + 1) * target_.vocab, target_.vocab);
      int64_t found = ROOT;
      for (int64_t child : tree.children(at))
        if (stands(tree.at(child).token, p, drawn_from(tree.at(child), p.size()), random_)) {
          found = child;
          break;
        }
      if (found == ROOT) return {stood, draw(p, random_)};
      stood.push_back(at = found);
    }
  }

  static Chances drawn_from(const Tree::Node& node, size_t vocab) {
    if (node.q) return *node.q;
    Chances q(std::max(vocab, static_cast<size_t>(node.token) + 1), 0.0);
    q[static_cast<size_t>(node.token)] = 1.0;
    return q;
  }
};


// --------------------------------------------------------------------------------------------------------- the program

struct Arguments {
  string bundle, device, model, ids;
  int64_t tokens = 64;
  std::optional<double> temperature, top_p;  // of the bundle where they are left out
  std::optional<int64_t> top_k;
  int64_t seed = 0;
  std::optional<int64_t> pace;
  bool json = false, speculation = true, overlap = true, ids_given = false;
  Wishes wishes;
};

const char USAGE[] =
    "edgec-runner BUNDLE [--ids \"1 2 3\"] [--tokens N] [--device CHIP] [--model NAME] [--no-speculation] [--json]\n"
    "              [--temperature T] [--top-p P] [--top-k K] [--seed N] [--no-overlap] [--pace N]\n"
    "  --ids           of the prompt; read from stdin where it is left out\n"
    "  --no-overlap    the draft waits for the target; --pace N: it makes N calls beside each of the target's, however\n"
    "                  long those take (rounds that can be compared)\n"
    "  --ort FILE      libonnxruntime.so; --qnn-provider FILE, --qnn-backend FILE: libonnxruntime_providers_qnn.so, "
    "libQnnHtp.so\n"
    "  --npu-graphs DIR, --cpu-graphs DIR    on a PC, in the place of an NPU's binary: DIR/TWINS/GRAPH.onnx, by the\n"
    "                  manifest's `twins` and `target_graph`: EPContext models for the emulator, or plain graphs\n";

[[maybe_unused]] Arguments parse(int count, char** words) {
  Arguments made;
  auto usage = [](const string& why) { throw Failure(2, why + "\n" + USAGE); };
  std::map<string, string*> texts = {{"--ids", &made.ids},
                                     {"--device", &made.device},
                                     {"--model", &made.model},
                                     {"--ort", &made.wishes.ort},
                                     {"--qnn-provider", &made.wishes.provider},
                                     {"--qnn-backend", &made.wishes.backend},
                                     {"--npu-graphs", &made.wishes.npu_graphs},
                                     {"--cpu-graphs", &made.wishes.cpu_graphs}};
  auto whole = [&](const string& word, const char* text, int64_t most) {
    char* end = nullptr;
    const int64_t made = strtoll(text, &end, 10);
    if (!*text || *end || made < 0 || made > most) usage("`" + word + "` is no number of at most " + std::to_string(most));
    return made;
  };
  auto real = [&](const string& word, const char* text) {
    char* end = nullptr;
    const double made = strtod(text, &end);
    if (!*text || *end || !std::isfinite(made)) usage("`" + word + "` is no number");
    return made;
  };
  const std::set<string> numbers = {"--tokens", "--temperature", "--top-p", "--top-k", "--seed", "--pace"};
  for (int i = 1; i < count; ++i) {
    const string word = words[i];
    const bool takes = texts.count(word) || numbers.count(word);
    if (takes && i + 1 >= count) usage("`" + word + "` needs a value");
    if (word == "--json") {
      made.json = true;
    } else if (word == "--no-speculation") {
      made.speculation = false;
    } else if (word == "--no-overlap") {
      made.overlap = false;
    } else if (word == "--pace") {
      made.pace = whole(word, words[++i], 1 << 24);
    } else if (word == "--tokens") {
      made.tokens = whole(word, words[++i], 1 << 24);
    } else if (word == "--seed") {
      made.seed = whole(word, words[++i], std::numeric_limits<int64_t>::max());
    } else if (word == "--top-k") {
      made.top_k = whole(word, words[++i], 1 << 24);
    } else if (word == "--temperature") {
      made.temperature = real(word, words[++i]);
      if (*made.temperature < 0) usage("`--temperature` is below 0");
    } else if (word == "--top-p") {
      made.top_p = real(word, words[++i]);
      if (*made.top_p <= 0 || *made.top_p > 1) usage("`--top-p` is not above 0 and at most 1");
    } else if (takes) {
      *texts[word] = words[++i];
      made.ids_given |= word == "--ids";
    } else if (word.rfind("--", 0) == 0 || !made.bundle.empty()) {
      usage("`" + word + "` is not understood");
    } else {
      made.bundle = word;
    }
  }
  if (made.bundle.empty()) usage("no bundle is given");
  return made;
}

// Numbers with anything that is no digit between them, such as `[1, 2, 3]`.
vector<int64_t> read_ids(const string& text) {
  vector<int64_t> made;
  for (size_t at = 0; at < text.size();) {
    if (isdigit(static_cast<unsigned char>(text[at]))) {
      char* end = nullptr;
      made.push_back(strtoll(text.c_str() + at, &end, 10));
      at = static_cast<size_t>(end - text.c_str());
    } else if (strchr(" ,[]\t\r\n", text[at])) {
      ++at;
    } else {
      refuse("the prompt is no list of token ids: `" + text.substr(at, 12) + "`");
    }
  }
  return made;
}

string listed(const vector<int64_t>& ids, const char* between) {
  string made;
  for (int64_t id : ids) made += (made.empty() ? "" : between) + std::to_string(id);
  return made;
}

string chosen_model(const Bundle& bundle, const string& asked) {
  if (!asked.empty()) return asked;
  if (const Json* pair = bundle.manifest.find("speculation")) return (*pair)["target"].as_text();
  const auto& models = bundle.manifest["models"].table;
  if (models.size() != 1) refuse("the bundle holds several models: choose one with `--model`");
  return models[0].first;
}

// What was asked for; unsaid: greedy, or the model's own defaults where the plan says `accept = sample`.
Sampling chosen_sampling(const Bundle& bundle, const string& name, const Arguments& asked) {
  Sampling made;
  const Json* pair = bundle.manifest.find("speculation");
  if (!asked.temperature && pair && (*pair)["accept"].as_text() == "sample") {
    made.temperature = 1.0;
    if (const Json* own = bundle.manifest["sampling"].find(name)) {
      if (const Json* one = own->find("temperature")) made.temperature = one->as_number();
      if (const Json* one = own->find("top_p")) made.top_p = one->as_number();
      if (const Json* one = own->find("top_k")) made.top_k = one->as_int();
    }
  }
  made.temperature = asked.temperature.value_or(made.temperature);
  made.top_p = asked.top_p.value_or(made.top_p);
  made.top_k = asked.top_k.value_or(made.top_k);
  return made;
}

// What the program does, from its arguments to a line of JSON or of token ids.
string answer(const Arguments& asked, const string& ids) {
  const Bundle bundle = open_bundle(asked.bundle, asked.device);
  const string name = chosen_model(bundle, asked.model);
  const vector<int64_t> prompt = read_ids(ids);
  Engines engines(bundle, asked.wishes);
  std::unique_ptr<Model> target = open_model(bundle, name, engines), draft;
  Rounds rounds;
  const Json* pair = bundle.manifest.find("speculation");
  if (pair && (*pair)["target"].as_text() == name) {
    const Json *tree = pair->find("tree"), *overlap = pair->find("overlap");
    const int64_t k = (*pair)["k"].as_int(), step = (tree ? tree->as_int() : k) + 1;
    auto* chain = dynamic_cast<Chain*>(target.get());
    rounds.slots = chain ? chain->step_by(step) : 0;
    if (!rounds.slots) rounds.slots = step;
    if (asked.speculation) {
      rounds.k = k;
      rounds.tree = tree ? tree->as_int() : 0;
      rounds.lookup = pair->find("source") && (*pair)["source"].as_text() == "prompt";
      rounds.overlap = overlap && asked.overlap;
      rounds.pace = asked.pace;
      if (overlap && overlap->find("outcomes")) rounds.outcomes = (*overlap)["outcomes"].as_int();
      if (pair->find("draft")) draft = open_model(bundle, (*pair)["draft"].as_text(), engines);
    }
    if (rounds.tree && !target->branches()) refuse("`" + name + "` takes no trees of drafts in its engine");
  }
  std::set<int64_t> eos;
  if (const Json* tokenizer = bundle.model(name).find("tokenizer"))
    for (const Json& one : bundle.manifest["tokenizers"][tokenizer->as_text()]["eos"].as_list())
      eos.insert(one.as_int());
  const Sampling sampling = chosen_sampling(bundle, name, asked);
  const uint64_t seed = static_cast<uint64_t>(asked.seed);
  const Outcome made = Decoder(*target, draft.get(), rounds, eos, sampling, seed).generate(prompt, asked.tokens);
  if (!asked.json) return listed(made.tokens, " ");
  std::ostringstream line;
  line << "{\"tokens\": [" << listed(made.tokens, ", ") << "], \"prompt_tokens\": " << prompt.size()
       << ", \"rounds\": " << made.rounds << ", \"drafted\": " << made.drafted << ", \"accepted\": " << made.accepted
       << ", \"ready\": " << made.ready << ", \"waited\": " << made.waited << ", \"stopped\": \"" << made.stopped << "\", \"device\": \"" << bundle.device
       << "\", \"prompt_seconds\": " << made.prompt_seconds << ", \"seconds\": " << made.seconds << "}";
  return line.str();
}

}  // namespace

#ifndef EDGEC_NO_MAIN
int main(int count, char** words) {
  try {
    const Arguments asked = parse(count, words);
    // standard output is the runner's alone: what engines print there goes to standard error
    FILE* output = fdopen(dup(STDOUT_FILENO), "w");
    if (!output || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) broken("standard output is closed");
    const string ids = asked.ids_given ? asked.ids : string(std::istreambuf_iterator<char>(std::cin), {});
    fprintf(output, "%s\n", answer(asked, ids).c_str());
    if (fclose(output) != 0) broken("the tokens cannot be written");
    return 0;
  } catch (const Failure& failure) {
    std::cerr << "edgec-runner: " << failure.what() << "\n";
    return failure.code;
  } catch (const std::exception& error) {
    std::cerr << "edgec-runner: " << error.what() << "\n";
    return 3;
  }
}
#endif
