#!/usr/bin/env bash
# run.sh DIR SECONDS: all targets of $FUZZER (DIR/mediant-fuzz if unset) at once, one process each, with the corpora
# DIR/corpus/TARGET. Logs and artifacts go to $OUT (DIR/out if unset). Each target runs for SECONDS; one that ended with a finding starts again.
set -u
dir=$(cd "$1" && pwd) seconds=$2 out=${OUT:-$dir/out}
fuzzer=$(realpath "${FUZZER:-$dir/mediant-fuzz}")
targets=${TARGETS:-json requests datasets activations gguf safetensors tokenizer templates torch programs merge}
export RAYON_NUM_THREADS=1 RUST_BACKTRACE=1
# What the targets write lies in memory; runtimes have threads of their own with 2 MiB, and so has a reader here.
if [[ -w /dev/shm ]]; then base=/dev/shm; else base=/tmp; fi
scratch=$(mktemp -d "$base/mediant-fuzz.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$out"
one() {
  local target=$1 end=$((SECONDS + seconds)) left n=0
  mkdir -p "$out/$target" "$scratch/$target/tmp" "$scratch/$target/corpus"
  : > "$out/$target.log"
  while left=$((end - SECONDS)); (( left > 2 && n < 200 )); do
    (
      ulimit -c 0
      ulimit -s "${STACK:-2048}"
      MEDIANT_FUZZ=$target TMPDIR=$scratch/$target/tmp exec nice -n 10 "$fuzzer" \
        -max_total_time=$left -timeout=10 -rss_limit_mb=2048 -max_len=16384 -len_control=20 -print_final_stats=1 \
        -use_value_profile="${VALUE_PROFILE:-1}" -artifact_prefix="$out/$target/" "$scratch/$target/corpus" "$dir/corpus/$target"
    ) >> "$out/$target.log" 2>&1
    rm -rf "$scratch/$target/tmp"; mkdir -p "$scratch/$target/tmp"
    n=$((n + 1))
  done
  # What was found of new paths, for the next run.
  tar -C "$scratch/$target" -czf "$out/$target.corpus.tgz" corpus 2>/dev/null
}
for target in $targets; do one "$target" & done
wait
for target in $targets; do
  log=$out/$target.log
  execs=$(awk '/stat::number_of_executed_units/ {n += $2} END {print n + 0}' "$log")
  cov=$(grep -o 'cov: [0-9]*' "$log" | awk '$2 > m {m = $2} END {print m + 0}')
  found=$(find "$out/$target" -type f | sed 's|.*/||; s/-.*//' | sort | uniq -c | awk '{printf "%s%s %s", s, $1, $2; s = ", "}')
  echo "$target: $execs execs, $((execs / seconds)) a second, coverage $cov, findings: ${found:-none}"
done
