// The runner in an app: device/runner.cc without its main, called from Runner.java.

#define EDGEC_NO_MAIN
#include "../../../../../runner.cc"

#include <jni.h>

namespace {

string text_of(JNIEnv* env, jstring from) {
  const char* held = env->GetStringUTFChars(from, nullptr);
  string made = held ? held : "";
  if (held) env->ReleaseStringUTFChars(from, held);
  return made;
}

}  // namespace

extern "C" JNIEXPORT jstring JNICALL Java_org_edgec_runner_Runner_generate(JNIEnv* env, jclass, jstring bundle,
                                                                           jstring libraries, jstring chip,
                                                                           jstring ids, jint tokens) {
  try {
    const string folder = text_of(env, libraries);
    setenv("ADSP_LIBRARY_PATH", (folder + ";/vendor/dsp/cdsp;/vendor/lib/rfsa/adsp;/dsp").c_str(), 1);
    Arguments asked;
    asked.bundle = text_of(env, bundle);
    asked.device = text_of(env, chip);
    asked.tokens = tokens;
    asked.json = true;
    asked.wishes.provider = folder + "/" + asked.wishes.provider;
    asked.wishes.backend = folder + "/" + asked.wishes.backend;
    return env->NewStringUTF(answer(asked, text_of(env, ids)).c_str());
  } catch (const std::exception& error) {
    env->ThrowNew(env->FindClass("java/lang/IllegalStateException"), error.what());
    return nullptr;
  }
}
