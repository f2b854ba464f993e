package org.edgec.runner;

import android.app.Activity;
import android.os.Build;
import android.os.Bundle;
import android.widget.TextView;
import java.io.File;

/** Runs the bundle in the app's files once and shows what came: `--es ids "1 2 3"` and `--ei tokens 32` of the intent. */
public final class MainActivity extends Activity {
    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        TextView view = new TextView(this);
        view.setTextIsSelectable(true);
        setContentView(view);
        String bundle = new File(getExternalFilesDir(null), "bundle").getPath();
        String libraries = getApplicationInfo().nativeLibraryDir;
        String given = getIntent().getStringExtra("ids");
        String ids = given == null ? "1" : given;
        int tokens = getIntent().getIntExtra("tokens", 32);
        view.setText("running " + bundle);
        new Thread(() -> {
            String said;
            try {
                said = Runner.generate(bundle, libraries, Build.SOC_MODEL, ids, tokens);
            } catch (IllegalStateException failure) {
                said = failure.getMessage();
            }
            String shown = said;
            runOnUiThread(() -> view.setText(shown));
        }).start();
    }
}
