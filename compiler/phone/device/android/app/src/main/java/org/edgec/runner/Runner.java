package org.edgec.runner;

/** The reference runner (device/runner.cc): token ids in, a line of JSON with token ids out. */
final class Runner {
    static {
        System.loadLibrary("edgec_runner");
    }

    private Runner() {}

    /**
     * Continues a prompt greedily; opens the models and closes them again.
     *
     * @param bundle folder of the bundle
     * @param libraries folder of the app's native libraries
     * @param chip Build.SOC_MODEL; a chip that the bundle was not built for is refused by name
     * @param ids of the prompt, with spaces or commas between them
     * @throws IllegalStateException with the runner's own words
     */
    static native String generate(String bundle, String libraries, String chip, String ids, int tokens);
}
