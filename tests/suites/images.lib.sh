# What images.sh and histories.sh share: two trees are compared, and images become views. Sourced after lib.sh.

store=()
wrong=0
# How often a file is linked; of what a lower layer has, names that are hidden count in a view.
links=%n
# Whether names of one file are compared: an archive joins those of one layer only.
joined=yes

# tree DIR: all that it shows, but for the root itself, which unpackers make.
tree() {
    (
        cd "$1"
        find . -mindepth 1 ! -type d -printf "%P %y %m %U:%G %s $links %T@ %l\n" -o -mindepth 1 -printf '%P %y %m %U:%G %T@\n' | sort
        find . -mindepth 1 -type f -printf '%P\0' | sort -z | xargs -0r sha256sum --
        # Which names are one file.
        [ -z "$joined" ] || find . -type f -links +1 -printf '%i/%P\n' | sort | awk -F/ '{ i = $1; sub("^[0-9]*", ""); all[i] = all[i] " " $0; n[i]++ }
            END { for (i in all) if (n[i] > 1) print all[i] }' | sort
        find . -mindepth 1 -printf '%P\0' | sort -z | xargs -0r getfattr -h -d -m '^(user|security|system)\.' -e hex -- 2>/dev/null |
            grep -v '^security.selinux'
    ) | sed 's/\(\.[0-9]*[1-9]\)0*\b/\1/'
}

# same NAME DIR DIR
same() {
    if diff <(tree "$2") <(tree "$3") >"$base/diff"; then
        echo "$1: equal"
    else
        echo "$1: DIFFERENT"
        head -20 "$base/diff"
        wrong=1
    fi
}

# quiet COMMAND…: what it says is shown only if it fails.
quiet() { "$@" >"$base/said" 2>&1 || { cat "$base/said"; return 1; }; }

# view NAME IMAGE...: imports it, and mounts it at NAME.
view() {
    local name=$1
    shift
    mkdir -p "$name"
    "$plyfs" layer import --print-lowerdir "$@" "$name.layers" >"$name.list"
    "$plyfs" -o "lowerdir=@$base/$name.list" "$name"
}

buildah() { command buildah "${store[@]}" "$@"; }
