//! What fuzzing has found, and where it starts from, passes every decoder.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn every_input_of_the_corpus_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let artifacts = Path::new(env!("CARGO_TARGET_TMPDIR")).join("corpus");
    let output = Command::new(env!("CARGO_BIN_EXE_conformance-fuzz"))
        .args(["--seconds", "0", "--corpus"])
        .arg(&corpus)
        .arg("--artifacts")
        .arg(&artifacts)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let targets = fs::read_dir(&corpus).unwrap().count();
    assert_eq!(printed.matches("ok fuzz").count(), targets, "{printed}");
}
