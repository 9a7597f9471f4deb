#!/usr/bin/env bash
# Runs one fuzz target without cargo-fuzz: fuzz/run.sh TARGET [SECONDS]. The corpus grows in target/fuzz/corpus/TARGET.
set -euo pipefail
cd "$(dirname "$0")"
target=$1
seconds=${2:-60}
triple=$(rustc +nightly -vV | sed -n 's/^host: //p')
corpus=../target/fuzz/corpus/$target
mkdir -p "$corpus" "../target/fuzz/artifacts/$target"
flags='--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4'
flags+=' -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table'
flags+=' -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Ccodegen-units=1'
RUSTFLAGS=$flags cargo +nightly build --quiet --release --target "$triple" --target-dir ../target/fuzz --bin "$target"
seeds=()
[ -d "seeds/$target" ] && seeds=("seeds/$target")
exec "../target/fuzz/$triple/release/$target" -max_total_time="$seconds" -timeout=30 -rss_limit_mb=4096 \
    -artifact_prefix="../target/fuzz/artifacts/$target/" "$corpus" "${seeds[@]}"
