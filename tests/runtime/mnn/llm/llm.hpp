// What device/runner.cc calls of MNN 3.6's LLM engine, declared for tests: MNN's wheel holds the code, and no headers.
// Methods that are virtual in MNN are called here by their own symbols, which is the same for a plain language model.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

namespace MNN {
namespace Express {

class Variable {
 public:
  struct Info {
    int order;
    std::vector<int> dim;
    struct {
      unsigned char code, bits;
      unsigned short lanes;
    } type;
    size_t size;
  };
  const Info* getInfo();
  template <class T>
  const T* readMap() { return static_cast<const T*>(readInternal(false)); }

 private:
  void* readInternal(bool for_shape);
};

class VARP {
 public:
  Variable* operator->() const { return held_.get(); }
  bool operator==(std::nullptr_t) const { return held_ == nullptr; }

 private:
  std::shared_ptr<Variable> held_;
};

}  // namespace Express

namespace Transformer {

class Llm {
 public:
  static Llm* createLLM(const std::string& config);
  static void destroy(Llm* engine);
  bool load();
  bool set_config(const std::string& text);
  void generate_init(std::ostream* stream = nullptr, const char* end = nullptr);
  Express::VARP forward(const std::vector<int>& ids, bool prefill = true);
  void eraseHistory(size_t begin, size_t end);
  void reset();
};

}  // namespace Transformer
}  // namespace MNN
