# Sourced by the other scripts: a matrix once for every number of samples decoded together.
#
# PARALLEL is one number, or several, as in "1 2 4 8": then each has a folder of its own, and they are
# compared. SAMPLES is how many a question has, at least as many as are decoded together.

# each_parallel FUNCTION FLAGS... calls FUNCTION NUMBER FOLDER FLAGS...
each_parallel() {
    local run="$1" parallel folder folders=()
    shift
    for parallel in $PARALLEL; do
        # what is no number is refused by the command itself
        if [[ "$parallel" =~ ^[0-9]+$ ]] && [ "$parallel" -gt "$SAMPLES" ]; then SAMPLES="$parallel"; fi
    done
    for parallel in $PARALLEL; do
        folder="$OUT"
        [ "$PARALLEL" = "$parallel" ] || folder="$OUT-parallel-$parallel"
        "$run" "$parallel" "$folder" "$@"
        folders+=("$folder")
    done
    [ "${DRY_RUN:-0}" = 0 ] || return 0
    [ "${#folders[@]}" = 1 ] || python -m evaluation.parallel "${folders[@]}"
    echo "records and figures: ${folders[*]}"
}
