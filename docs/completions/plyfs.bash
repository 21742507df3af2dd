# Completions of plyfs for bash: /usr/share/bash-completion/completions/plyfs, or `source` this file.
#
# The blocks between "begin" and "end" are written by PLYFS_UPDATE_DOCS=1 cargo test --test documents.

# begin commands
_plyfs_commands=(mount show umount complete help run drop diff apply commit log undo redo layer status where)
_plyfs_of_layer=(du squash export check convert import add remove)
_plyfs_flags() {
    case $1 in
    mount) printf %s '-o -f --foreground -d --debug --supervise -h --help --help-all -V --version' ;;
    show) printf %s '--json -h --help --help-all -V --version' ;;
    umount) printf %s '-l --lazy -h --help --help-all -V --version' ;;
    complete) printf %s '-o -d --debug -h --help --help-all -V --version' ;;
    help) printf %s '-h --help --help-all -V --version' ;;
    run) printf %s '-n --name --rm --on --rw --hide --no-net -q --quiet --store -h --help' ;;
    drop) printf %s '--store -h --help' ;;
    diff) printf %s '-o --stat --names -p --patch -z --exit-code --json --color --store -q --quiet -h --help' ;;
    apply) printf %s '-o -n --dry-run --theirs --ours --resume --json --color --store -q --quiet -h --help' ;;
    commit) printf %s '-m --message -q --quiet -o --store -h --help' ;;
    log) printf %s '--json --color -o --store -h --help' ;;
    undo) printf %s '-q --quiet -o --store -h --help' ;;
    redo) printf %s '-q --quiet -o --store -h --help' ;;
    layer) printf %s '-h --help' ;;
    'layer du') printf %s '-o --top --max --json --store -h --help' ;;
    'layer squash') printf %s '--bottom --link --workdir --userxattr --json -h --help' ;;
    'layer export') printf %s '-o --tar --oci --merged --compress --json --store -h --help' ;;
    'layer check') printf %s '--workdir --datadir --repair --userxattr --json -h --help' ;;
    'layer convert') printf %s '--marks --whiteouts --flatten --lower --datadir --bottom --from --workdir --json --in-place -h --help' ;;
    'layer import') printf %s '--max --print-lowerdir --json -h --help' ;;
    'layer add') printf %s '--top --bottom --below --json -q --quiet -h --help' ;;
    'layer remove') printf %s '--json -q --quiet -h --help' ;;
    status) printf %s '--json --color --store -h --help' ;;
    where) printf %s '-o --json --color --store -h --help' ;;
    esac
}
# end commands
# begin options
_plyfs_options=(
    lowerdir=
    lowerdir+=
    upperdir=
    workdir=
    datadir+=
    default_permissions
    redirect_dir=
    index=
    metacopy=
    copyup_block=
    copyup_rate=
    verity=
    uuid=
    xino=
    volatile
    fsync=
    userxattr
    allow_other
    timeout=
    attr_timeout=
    entry_timeout=
    negative_timeout=
    fsname=
    subtype=
    io=
    copyup=
    prefetch=
    supervise
    log=
    threads=
    spin=
    auto_unmount
    noacl
    static_nlink
    debug
    ino32_t
    noxattrs
    xattr_permissions=
    uidmapping=
    gidmapping=
    squash_to_root
    squash_to_uid=
    squash_to_gid=
    context=
    fscontext=
    defcontext=
    rootcontext=
    ro
    rw
    suid
    nosuid
    dev
    nodev
    exec
    noexec
    atime
    noatime
    sync
    async
    dirsync
    private
    rprivate
    shared
    rshared
    slave
    rslave
    unbindable
    runbindable
    remount
)
_plyfs_values() {
    case $1 in
    redirect_dir) printf %s 'on follow nofollow off' ;;
    index) printf %s 'on off' ;;
    metacopy) printf %s 'on off' ;;
    verity) printf %s 'off on require' ;;
    uuid) printf %s 'off null auto on' ;;
    xino) printf %s 'off auto on' ;;
    fsync) printf %s 'auto strict volatile 1 0' ;;
    io) printf %s 'auto stateless passthrough writeback' ;;
    copyup) printf %s 'lazy open' ;;
    prefetch) printf %s 'on off' ;;
    log) printf %s 'stderr syslog off' ;;
    spin) printf %s 'auto off' ;;
    xattr_permissions) printf %s '0 1 2 parents' ;;
    esac
}
# end options

# The word before the cursor, which bash has cut into pieces at `=` and `:`.
_plyfs_word() {
    local line=${COMP_LINE:0:COMP_POINT}
    line=${line##*[^\\][[:space:]]}
    printf %s "$line"
}

# Offers words that begin with $1 and have $2 before them on the line; bash replaces only what stands behind the last `=` or
# `:` of the line.
_plyfs_offer() {
    local before=$1 word
    shift
    local kept=${before##*[=:]}
    [[ $COMP_WORDBREAKS == *=* && $COMP_WORDBREAKS == *:* ]] || kept=$before
    for word in "$@"; do COMPREPLY+=("$kept$word"); done
}

# Directories (or, with `-f`, files, too) that begin with the path $2, behind $3 on the line.
_plyfs_paths() {
    local kind=$1 path=$2 before=$3 found
    while IFS= read -r found; do
        [[ -d $found ]] && found+=/
        printf -v found %q "$found"
        _plyfs_offer "$before" "$found"
    done < <(compgen "$kind" -- "${path//\\/}")
}

# The last option of the comma list $1, behind $2 on the line.
_plyfs_option() {
    local list=$1 before=$2
    local last=${list##*[!\\],}
    [[ $last == "$list" ]] && last=${list#,}
    before+=${list%"$last"}
    compopt -o nospace
    if [[ $last != *=* ]]; then
        local words=() word
        for word in "${_plyfs_options[@]}"; do [[ $word == "$last"* ]] && words+=("$word"); done
        _plyfs_offer "$before" "${words[@]}"
        return
    fi
    local name=${last%%=*} value=${last#*=} choice
    before+=$name=
    case $name in
    lowerdir)
        [[ $value == *:* ]] && before+=${value%"${value##*:}"} value=${value##*:}
        _plyfs_paths -d "$value" "$before"
        ;;
    upperdir | workdir | lowerdir+ | datadir+) _plyfs_paths -d "$value" "$before" ;;
    *)
        for choice in $(_plyfs_values "$name"); do
            [[ $choice == "$value"* ]] && _plyfs_offer "$before" "$choice"
        done
        [[ $name == log ]] && _plyfs_paths -f "$value" "$before"
        ;;
    esac
}

_plyfs() {
    COMPREPLY=()
    local word command=mount previous=${COMP_WORDS[COMP_CWORD - 1]} line=${COMP_LINE:0:COMP_POINT}
    word=$(_plyfs_word)
    local first=${COMP_WORDS[1]}
    [[ ${COMP_WORDS[0]} != *mount.* && $COMP_CWORD -gt 1 && " ${_plyfs_commands[*]} " == *" $first "* ]] && command=$first
    [[ $command == layer && $COMP_CWORD -gt 2 && " ${_plyfs_of_layer[*]} " == *" ${COMP_WORDS[2]} "* ]] &&
        command="layer ${COMP_WORDS[2]}"
    line=${line%"$word"}
    line=${line%"${line##*[![:space:]]}"}
    case $command:$word in
    mount:-o?* | complete:-o?*)
        _plyfs_option "${word#-o}" -o
        return
        ;;
    esac
    if [[ $line =~ [[:space:]]-[a-z]*o$ && ($command == mount || $command == complete) ]]; then
        _plyfs_option "$word" ""
    elif [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$(_plyfs_flags "$command")" -- "$word"))
    else
        case $command in
        help) COMPREPLY=($(compgen -W "${_plyfs_commands[*]}" -- "$word")) ;;
        layer) COMPREPLY=($(compgen -W "${_plyfs_of_layer[*]}" -- "$word")) ;;
        'layer '*) _plyfs_paths -f "$word" "" ;;
        run) COMPREPLY=($(compgen -c -- "$word")) ;;
        drop | diff | apply | commit | log | undo | redo | status | where)
            COMPREPLY=($(compgen -W "$(_plyfs_sessions)" -- "$word"))
            [[ $command == drop ]] || _plyfs_paths -f "$word" ""
            ;;
        show | umount)
            local view
            while IFS= read -r view; do
                [[ $view == "$word"* ]] && COMPREPLY+=("$(printf %q "$view")")
            done < <(findmnt -nlo TARGET -t fuse.plyfs 2>/dev/null)
            [[ ${#COMPREPLY[@]} -gt 0 ]] || _plyfs_places "$word"
            ;;
        mount)
            [[ $COMP_CWORD -eq 1 && ${COMP_WORDS[0]} != *mount.* ]] &&
                COMPREPLY=($(compgen -W "${_plyfs_commands[*]}" -- "$word"))
            _plyfs_places "$word"
            ;;
        esac
    fi
}

# The names of the sessions.
_plyfs_sessions() {
    "${COMP_WORDS[0]}" status 2>/dev/null | sed -n 's/^session \([^,]*\),.*/\1/p'
}

# Directories as words of their own.
_plyfs_places() {
    _plyfs_paths -d "$1" ""
    # A command ends a word, a directory may go on.
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]] && compopt -o nospace
}

complete -F _plyfs plyfs mount.fuse.plyfs
