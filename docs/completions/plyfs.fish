# Completions of plyfs for fish: /usr/share/fish/vendor_completions.d/plyfs.fish
#
# The blocks between "begin" and "end" are written by PLYFS_UPDATE_DOCS=1 cargo test --test documents.

# Each option, and what it is; an option that has a value ends with `=`.
function __plyfs_options
    # begin options
    printf '%s\t%s\n' 'lowerdir=' 'the lower layers, the topmost first, and behind `::` each data-only layer'
    printf '%s\t%s\n' 'lowerdir+=' 'one more lower layer below those before it, the path as it stands (`\\:` is no escape here)'
    printf '%s\t%s\n' 'upperdir=' 'the writable layer'
    printf '%s\t%s\n' 'workdir=' 'a directory for unfinished work, on the upper\'s file system'
    printf '%s\t%s\n' 'datadir+=' 'one more data-only layer below all others, whose files are reached from metacopy files only, the path as it stands'
    printf '%s\t%s\n' 'default_permissions' 'the kernel checks modes and owners'
    printf '%s\t%s\n' 'redirect_dir=' 'on: directories of lower layers can be renamed'
    printf '%s\t%s\n' 'index=' 'hard links of lower files stay together over a remount'
    printf '%s\t%s\n' 'metacopy=' 'a change of metadata copies no data'
    printf '%s\t%s\n' 'copyup_block=' 'the first write to a file of 16 such blocks or more copies the blocks that it touches, not the file: 4K to 16M'
    printf '%s\t%s\n' 'copyup_rate=' 'bytes a second by which files in use that copyup_block= left incomplete are completed in the background'
    printf '%s\t%s\n' 'verity=' 'on: the digests of metacopy files are checked where there are any'
    printf '%s\t%s\n' 'uuid=' 'on: the upper layer gets a UUID of its own'
    printf '%s\t%s\n' 'xino=' 'where inode numbers of several file systems come from'
    printf '%s\t%s\n' 'volatile' 'nothing is synced: a crash of the machine may lose the upper layer'
    printf '%s\t%s\n' 'fsync=' 'auto (1): data is on disk before its name is'
    printf '%s\t%s\n' 'userxattr' 'the marks in the upper layer are user.overlay.* attributes'
    printf '%s\t%s\n' 'allow_other' 'other users may enter'
    printf '%s\t%s\n' 'timeout=' 'how long the kernel may keep names and attributes'
    printf '%s\t%s\n' 'attr_timeout=' 'how long the kernel may keep attributes'
    printf '%s\t%s\n' 'entry_timeout=' 'how long the kernel may keep names'
    printf '%s\t%s\n' 'negative_timeout=' 'how long the kernel may keep that a name does not exist'
    printf '%s\t%s\n' 'fsname=' 'the source in the mount table'
    printf '%s\t%s\n' 'subtype=' 'the type in the mount table is fuse.NAME'
    printf '%s\t%s\n' 'io=' 'how data goes between programs and layers'
    printf '%s\t%s\n' 'copyup=' 'a file is copied up by its first write, or when it is opened for writing'
    printf '%s\t%s\n' 'prefetch=' 'small files are read ahead in the order of a listing, large ones around random reads (with stateless opens, Linux 6.9), directories ahead of a walk, and after reads a listing brings new times of access'
    printf '%s\t%s\n' 'supervise' 'a second, small process starts the daemon again if it dies: programs wait a moment and go on'
    printf '%s\t%s\n' 'log=' 'where warnings, errors and panics go (RUST_LOG=… says what else): a file is added to'
    printf '%s\t%s\n' 'threads=' 'requests served at once, 1 to 256'
    printf '%s\t%s\n' 'spin=' 'auto: of two processors that nobody else uses one is kept awake while requests follow each other, which is quicker and takes processor time'
    printf '%s\t%s\n' 'auto_unmount' 'when the daemon dies a second, small process unmounts the view (Linux 5.3)'
    printf '%s\t%s\n' 'noacl' 'POSIX ACLs are not interpreted'
    printf '%s\t%s\n' 'static_nlink' 'every directory shows a link count of 1'
    printf '%s\t%s\n' 'debug' 'as -d'
    printf '%s\t%s\n' 'ino32_t' '1: inode numbers have 32 bits, for programs without large-file support'
    printf '%s\t%s\n' 'noxattrs' 'there are no extended attributes, and so no ACLs'
    printf '%s\t%s\n' 'xattr_permissions=' 'owners, modes and devices of the upper layer are written as attributes, 1: security.fuseoverlayfs.override_stat, for root only, 2: user.containers.override_stat, parents: as 2, but only of directories of other owners that are copied up for what a normal user changes below them'
    printf '%s\t%s\n' 'uidmapping=' 'COUNT users from LAYER on are shown as those from VIEW on, and set as those of the layer'
    printf '%s\t%s\n' 'gidmapping=' 'the same for groups'
    printf '%s\t%s\n' 'squash_to_root' 'as squash_to_uid=0,squash_to_gid=0'
    printf '%s\t%s\n' 'squash_to_uid=' 'everything is shown as one user\'s'
    printf '%s\t%s\n' 'squash_to_gid=' 'the same for the group'
    printf '%s\t%s\n' 'context=' 'SELinux: given to the kernel as it stands, quotes and the commas between them included'
    printf '%s\t%s\n' 'fscontext=' 'SELinux: given to the kernel as it stands'
    printf '%s\t%s\n' 'defcontext=' 'SELinux: given to the kernel as it stands'
    printf '%s\t%s\n' 'rootcontext=' 'SELinux: given to the kernel as it stands'
    printf '%s\t%s\n' 'ro' 'read-only'
    printf '%s\t%s\n' 'rw' 'read-write, if there is an upper layer'
    printf '%s\t%s\n' 'suid' 'set-user-id bits count'
    printf '%s\t%s\n' 'nosuid' 'set-user-id bits do not count'
    printf '%s\t%s\n' 'dev' 'device files work'
    printf '%s\t%s\n' 'nodev' 'device files do not work'
    printf '%s\t%s\n' 'exec' 'programs may be run'
    printf '%s\t%s\n' 'noexec' 'programs may not be run'
    printf '%s\t%s\n' 'atime' 'takes back noatime'
    printf '%s\t%s\n' 'noatime' 'reading changes no access time'
    printf '%s\t%s\n' 'sync' 'a write is on disk when it returns'
    printf '%s\t%s\n' 'async' 'takes back sync'
    printf '%s\t%s\n' 'dirsync' 'a flag in the mount table'
    printf '%s\t%s\n' 'private' 'as mount(8): what is mounted in the view is seen in copies of it or not'
    printf '%s\t%s\n' 'rprivate' 'as mount(8): what is mounted in the view is seen in copies of it or not'
    printf '%s\t%s\n' 'shared' 'as mount(8): what is mounted in the view is seen in copies of it or not'
    printf '%s\t%s\n' 'rshared' 'as mount(8): what is mounted in the view is seen in copies of it or not'
    printf '%s\t%s\n' 'slave' 'as mount(8): what is mounted in the view is seen in copies of it or not'
    printf '%s\t%s\n' 'rslave' 'as mount(8): what is mounted in the view is seen in copies of it or not'
    printf '%s\t%s\n' 'unbindable' 'as mount(8): what is mounted in the view is seen in copies of it or not'
    printf '%s\t%s\n' 'runbindable' 'as mount(8): what is mounted in the view is seen in copies of it or not'
    printf '%s\t%s\n' 'remount' 'change ro, rw, nosuid, nodev, noexec, exec, noatime, atime, sync, async and dirsync of a mounted view'
    # end options
end

# The values of an option, as far as they are words.
function __plyfs_values
    switch $argv[1]
        # begin values
        case redirect_dir
            string split ' ' 'on follow nofollow off'
        case index
            string split ' ' 'on off'
        case metacopy
            string split ' ' 'on off'
        case verity
            string split ' ' 'off on require'
        case uuid
            string split ' ' 'off null auto on'
        case xino
            string split ' ' 'off auto on'
        case fsync
            string split ' ' 'auto strict volatile 1 0'
        case io
            string split ' ' 'auto stateless passthrough writeback'
        case copyup
            string split ' ' 'lazy open'
        case prefetch
            string split ' ' 'on off'
        case log
            string split ' ' 'stderr syslog off'
        case spin
            string split ' ' 'auto off'
        case xattr_permissions
            string split ' ' '0 1 2 parents'
        # end values
    end
end

# The last option of the comma list before the cursor, with all before it.
function __plyfs_list
    set -l list (commandline -ct | string replace -r '^-o' '')
    set -l last (string replace -r '^.*(?<!\\\\),' '' -- $list)
    set -l before (string sub -l (math (string length -- $list) - (string length -- $last)) -- $list)
    if not string match -q '*=*' -- $last
        string join \n -- $before(__plyfs_options)
        return
    end
    set -l name (string split -m 1 = -- $last)[1]
    set -l value (string split -m 1 = -- $last)[2]
    set before $before$name=
    switch $name
        case lowerdir
            set -l path (string replace -r '^.*:' '' -- $value)
            set before $before(string sub -l (math (string length -- $value) - (string length -- $path)) -- $value)
            set value $path
            string join \n -- $before(__fish_complete_directories $value '')
        case upperdir workdir lowerdir+ datadir+
            string join \n -- $before(__fish_complete_directories $value '')
        case log
            string join \n -- $before(__plyfs_values log) $before(__fish_complete_path $value)
        case '*'
            string join \n -- $before(__plyfs_values $name)
    end
end

# Where views are mounted.
function __plyfs_views
    findmnt -nlo TARGET -t fuse.plyfs 2>/dev/null
end

# begin flags
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a mount -d 'mount a view (mount -t fuse.plyfs … does so, too)'
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a show -d 'a mounted view\'s layers and options'
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a umount -d 'unmount a view, and wait for its daemon'
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a complete -d 'copy what copyup_block= left to copy (not mounted)'
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a help -d 'this, or how one command is used'
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a run -d 'run a command, and keep what it changes apart'
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a drop -d 'remove sessions and what was changed in them'
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a diff -d 'what a view has changed: since its last commit, or between two'
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a apply -d 'bring what a view has changed to its lower directory'
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a commit -d 'freeze what has changed, and go on from there'
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a log -d 'the commits of a view, the last one first'
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a undo -d 'go back to a commit; what was there since is kept'
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a redo -d 'come forward again after an undo'
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a layer -d 'layers as things: their weight, several made one, what is wrong, images; add and remove'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and not __fish_seen_subcommand_from du squash export check convert import add remove' -a du -d 'what layers weigh: what is seen of each, and what the layers above hide'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and not __fish_seen_subcommand_from du squash export check convert import add remove' -a squash -d 'several layers made one, which shows the same: what was deleted is gone'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and not __fish_seen_subcommand_from du squash export check convert import add remove' -a export -d 'layers as OCI images and archives: whole files, `.wh.` names, the same bytes each time'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and not __fish_seen_subcommand_from du squash export check convert import add remove' -a check -d 'what is wrong with layers, and what plyfs and the kernel\'s OverlayFS do with it'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and not __fish_seen_subcommand_from du squash export check convert import add remove' -a convert -d 'a layer with other marks and whiteouts, which shows the same'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and not __fish_seen_subcommand_from du squash export check convert import add remove' -a import -d 'OCI images and archives as layers, each in a directory named by its diff-id'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and not __fish_seen_subcommand_from du squash export check convert import add remove' -a add -d 'put a directory among the lower layers of a mounted view'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and not __fish_seen_subcommand_from du squash export check convert import add remove' -a remove -d 'take a lower layer out of a mounted view'
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a status -d 'the views and the sessions, or what one of them is'
complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a where -d 'which layers an object comes from, and what they hide'
complete -c plyfs -n 'not __fish_seen_subcommand_from show umount complete help run drop diff apply commit log undo redo layer status where' -s o -d 'options of the view; `\\,` is a comma in a value' -x -a '(__plyfs_list)'
complete -c plyfs -n 'not __fish_seen_subcommand_from show umount complete help run drop diff apply commit log undo redo layer status where' -s f -l foreground -d 'stay in the foreground, and log to stderr'
complete -c plyfs -n 'not __fish_seen_subcommand_from show umount complete help run drop diff apply commit log undo redo layer status where' -s d -l debug -d 'log everything, in the foreground (RUST_LOG=…: some)'
complete -c plyfs -n 'not __fish_seen_subcommand_from show umount complete help run drop diff apply commit log undo redo layer status where' -l supervise -d 'start the daemon again if it dies; open files go on'
complete -c plyfs -n 'not __fish_seen_subcommand_from show umount complete help run drop diff apply commit log undo redo layer status where' -s h -l help -d 'print this, or how the command is used'
complete -c plyfs -n 'not __fish_seen_subcommand_from show umount complete help run drop diff apply commit log undo redo layer status where' -l help-all -d 'print every command, flag and option'
complete -c plyfs -n 'not __fish_seen_subcommand_from show umount complete help run drop diff apply commit log undo redo layer status where' -s V -l version -d 'print the version'
complete -c plyfs -n '__fish_seen_subcommand_from show' -l json -d 'print one JSON object'
complete -c plyfs -n '__fish_seen_subcommand_from show' -s h -l help -d 'print this, or how the command is used'
complete -c plyfs -n '__fish_seen_subcommand_from show' -l help-all -d 'print every command, flag and option'
complete -c plyfs -n '__fish_seen_subcommand_from show' -s V -l version -d 'print the version'
complete -c plyfs -n '__fish_seen_subcommand_from umount' -s l -l lazy -d 'unmount a view in use, too: who is in it can finish'
complete -c plyfs -n '__fish_seen_subcommand_from umount' -s h -l help -d 'print this, or how the command is used'
complete -c plyfs -n '__fish_seen_subcommand_from umount' -l help-all -d 'print every command, flag and option'
complete -c plyfs -n '__fish_seen_subcommand_from umount' -s V -l version -d 'print the version'
complete -c plyfs -n '__fish_seen_subcommand_from complete' -s o -d 'options of the view; `\\,` is a comma in a value' -x -a '(__plyfs_list)'
complete -c plyfs -n '__fish_seen_subcommand_from complete' -s d -l debug -d 'log everything, in the foreground (RUST_LOG=…: some)'
complete -c plyfs -n '__fish_seen_subcommand_from complete' -s h -l help -d 'print this, or how the command is used'
complete -c plyfs -n '__fish_seen_subcommand_from complete' -l help-all -d 'print every command, flag and option'
complete -c plyfs -n '__fish_seen_subcommand_from complete' -s V -l version -d 'print the version'
complete -c plyfs -n '__fish_seen_subcommand_from help' -s h -l help -d 'print this, or how the command is used'
complete -c plyfs -n '__fish_seen_subcommand_from help' -l help-all -d 'print every command, flag and option'
complete -c plyfs -n '__fish_seen_subcommand_from help' -s V -l version -d 'print the version'
complete -c plyfs -n '__fish_seen_subcommand_from run' -s n -l name -d 'The session\'s name: it is made, gone on with, or joined while it runs (a name by the time)' -r
complete -c plyfs -n '__fish_seen_subcommand_from run' -l rm -d 'Throw the changes away at the end'
complete -c plyfs -n '__fish_seen_subcommand_from run' -l on -d 'Cover this directory only, and what is mounted below it; may be given again' -r
complete -c plyfs -n '__fish_seen_subcommand_from run' -l rw -d 'Let changes below PATH through; may be given again' -r
complete -c plyfs -n '__fish_seen_subcommand_from run' -l hide -d 'Show nothing at PATH; may be given again' -r
complete -c plyfs -n '__fish_seen_subcommand_from run' -l no-net -d 'Without a network'
complete -c plyfs -n '__fish_seen_subcommand_from run' -s q -l quiet -d 'Say nothing at the end'
complete -c plyfs -n '__fish_seen_subcommand_from run' -l store -d 'Keep sessions in DIR ($XDG_STATE_HOME/plyfs)' -r
complete -c plyfs -n '__fish_seen_subcommand_from run' -s h -l help -d 'Print help'
complete -c plyfs -n '__fish_seen_subcommand_from drop' -l store -d 'Where sessions are kept ($XDG_STATE_HOME/plyfs)' -r
complete -c plyfs -n '__fish_seen_subcommand_from drop' -s h -l help -d 'Print help'
complete -c plyfs -n '__fish_seen_subcommand_from diff' -s o -d 'The layers of a view that is not mounted, as `mount` takes them' -x -a '(__plyfs_list)'
complete -c plyfs -n '__fish_seen_subcommand_from diff' -l stat -d 'Print counts and bytes of each kind of change only'
complete -c plyfs -n '__fish_seen_subcommand_from diff' -l names -d 'Print paths only'
complete -c plyfs -n '__fish_seen_subcommand_from diff' -s p -l patch -d 'Print the changed lines of text files, too'
complete -c plyfs -n '__fish_seen_subcommand_from diff' -s z -d 'End paths by NUL, unescaped, each behind its letter and a NUL'
complete -c plyfs -n '__fish_seen_subcommand_from diff' -l exit-code -d 'Exit with 1 if there are changes'
complete -c plyfs -n '__fish_seen_subcommand_from diff' -l json -d 'Print one JSON object a line'
complete -c plyfs -n '__fish_seen_subcommand_from diff' -l color -d 'Print colours' -r
complete -c plyfs -n '__fish_seen_subcommand_from diff' -l store -d 'Where sessions are kept ($XDG_STATE_HOME/plyfs)' -r
complete -c plyfs -n '__fish_seen_subcommand_from diff' -s q -l quiet -d 'Print no summary'
complete -c plyfs -n '__fish_seen_subcommand_from diff' -s h -l help -d 'Print help (see more with \'--help\')'
complete -c plyfs -n '__fish_seen_subcommand_from apply' -s o -d 'The layers of a view that is not mounted, as `mount` takes them' -x -a '(__plyfs_list)'
complete -c plyfs -n '__fish_seen_subcommand_from apply' -s n -l dry-run -d 'Only say what would be done'
complete -c plyfs -n '__fish_seen_subcommand_from apply' -l theirs -d 'Leave conflicts out: the lower objects stay, and the view keeps its own'
complete -c plyfs -n '__fish_seen_subcommand_from apply' -l ours -d 'Put what the view has in the place of what has changed below'
complete -c plyfs -n '__fish_seen_subcommand_from apply' -l resume -d 'Go on with an apply that was broken off'
complete -c plyfs -n '__fish_seen_subcommand_from apply' -l json -d 'Print one JSON object a line'
complete -c plyfs -n '__fish_seen_subcommand_from apply' -l color -d 'Print colours' -r
complete -c plyfs -n '__fish_seen_subcommand_from apply' -l store -d 'Where sessions are kept ($XDG_STATE_HOME/plyfs)' -r
complete -c plyfs -n '__fish_seen_subcommand_from apply' -s q -l quiet -d 'Print no summary'
complete -c plyfs -n '__fish_seen_subcommand_from apply' -s h -l help -d 'Print help (see more with \'--help\')'
complete -c plyfs -n '__fish_seen_subcommand_from commit' -s m -l message -d 'What is to be said of it in the log' -r
complete -c plyfs -n '__fish_seen_subcommand_from commit' -s q -l quiet -d 'Say nothing'
complete -c plyfs -n '__fish_seen_subcommand_from commit' -s o -d 'The layers of a view that is not mounted, as `mount` takes them' -x -a '(__plyfs_list)'
complete -c plyfs -n '__fish_seen_subcommand_from commit' -l store -d 'Where sessions are kept ($XDG_STATE_HOME/plyfs)' -r
complete -c plyfs -n '__fish_seen_subcommand_from commit' -s h -l help -d 'Print help'
complete -c plyfs -n '__fish_seen_subcommand_from log' -l json -d 'Print one JSON object a line'
complete -c plyfs -n '__fish_seen_subcommand_from log' -l color -d 'Print colours' -r
complete -c plyfs -n '__fish_seen_subcommand_from log' -s o -d 'The layers of a view that is not mounted, as `mount` takes them' -x -a '(__plyfs_list)'
complete -c plyfs -n '__fish_seen_subcommand_from log' -l store -d 'Where sessions are kept ($XDG_STATE_HOME/plyfs)' -r
complete -c plyfs -n '__fish_seen_subcommand_from log' -s h -l help -d 'Print help (see more with \'--help\')'
complete -c plyfs -n '__fish_seen_subcommand_from undo' -s q -l quiet -d 'Say nothing'
complete -c plyfs -n '__fish_seen_subcommand_from undo' -s o -d 'The layers of a view that is not mounted, as `mount` takes them' -x -a '(__plyfs_list)'
complete -c plyfs -n '__fish_seen_subcommand_from undo' -l store -d 'Where sessions are kept ($XDG_STATE_HOME/plyfs)' -r
complete -c plyfs -n '__fish_seen_subcommand_from undo' -s h -l help -d 'Print help'
complete -c plyfs -n '__fish_seen_subcommand_from redo' -s q -l quiet -d 'Say nothing'
complete -c plyfs -n '__fish_seen_subcommand_from redo' -s o -d 'The layers of a view that is not mounted, as `mount` takes them' -x -a '(__plyfs_list)'
complete -c plyfs -n '__fish_seen_subcommand_from redo' -l store -d 'Where sessions are kept ($XDG_STATE_HOME/plyfs)' -r
complete -c plyfs -n '__fish_seen_subcommand_from redo' -s h -l help -d 'Print help'
complete -c plyfs -n '__fish_seen_subcommand_from layer' -s h -l help -d 'Print help'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from du' -s o -d 'The layers of a view that is not mounted, as `mount` takes them' -x -a '(__plyfs_list)'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from du' -l top -d 'Name the N largest hidden files, and the N largest that were copied up' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from du' -l max -d 'Exit with 1 if more bytes than SIZE are hidden (1024, 50M, 2G)' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from du' -l json -d 'Print one JSON object a line'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from du' -l store -d 'Where sessions are kept ($XDG_STATE_HOME/plyfs)' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from du' -s h -l help -d 'Print help'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from squash' -l bottom -d 'No layer will lie below OUT: no whiteouts'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from squash' -l link -d 'Make hard links of the layers\' files where that can be; OUT must not be written then'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from squash' -l workdir -d 'The first layer is an upper one, and DIR is its workdir' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from squash' -l userxattr -d 'As root, follow and write user.overlay.* marks'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from squash' -l json -d 'Print one JSON object'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from squash' -s h -l help -d 'Print help'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from export' -s o -d 'The layers of a view that is not mounted, as `mount` takes them' -x -a '(__plyfs_list)'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from export' -l tar -d 'Write one layer as an archive (-: to standard output)' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from export' -l oci -d 'Write an OCI image layout, or add an image to it; TAG is latest if there is none' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from export' -l merged -d 'One layer with all that is seen, and nothing that is hidden'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from export' -l compress -d 'How layers are compressed (gzip with --oci, none with --tar)' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from export' -l json -d 'Print one JSON object a layer'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from export' -l store -d 'Where sessions are kept ($XDG_STATE_HOME/plyfs)' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from export' -s h -l help -d 'Print help (see more with \'--help\')'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from check' -l workdir -d 'The first layer is an upper one, and DIR is its workdir' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from check' -l datadir -d 'A data-only layer below all of them, as lowerdir=…::DIR has it; may be given again' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from check' -l repair -d 'Remove what hides nothing, says nothing, or is left over; no mount may use the layers'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from check' -l userxattr -d 'As root, the marks are user.overlay.*'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from check' -l json -d 'Print one JSON object a line'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from check' -s h -l help -d 'Print help'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from convert' -l marks -d 'Where the marks of OUT are' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from convert' -l whiteouts -d 'What hides names in OUT' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from convert' -l flatten -d 'Bring up what the layer only refers to: contents of renamed directories, data of metacopy files'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from convert' -l lower -d 'A layer that it stands on: all of them, the topmost first' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from convert' -l datadir -d 'A data-only layer below all of them, as lowerdir=…::DIR has it; may be given again' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from convert' -l bottom -d 'No layer lies below the last one that is named'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from convert' -l from -d 'How the layer is read (as its root tells)' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from convert' -l workdir -d 'The layer is an upper one, and DIR is its workdir' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from convert' -l json -d 'Print one JSON object'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from convert' -l in-place -d 'Replace the layer; nothing may be mounted on it'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from convert' -s h -l help -d 'Print help (see more with \'--help\')'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from import' -l max -d 'Unpack at most SIZE bytes (1024, 50M, 2G)' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from import' -l print-lowerdir -d 'Print the layers as `lowerdir=@FILE` takes them, the topmost first'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from import' -l json -d 'Print one JSON object a layer'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from import' -s h -l help -d 'Print help'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from add' -l top -d 'Above all other lower layers, below the commits (the default)'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from add' -l bottom -d 'Below all other layers'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from add' -l below -d 'Directly below this layer' -r
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from add' -l json -d 'Print one JSON object: the layers of the view'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from add' -s q -l quiet -d 'Say nothing'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from add' -s h -l help -d 'Print help'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from remove' -l json -d 'Print one JSON object: the layers of the view'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from remove' -s q -l quiet -d 'Say nothing'
complete -c plyfs -n '__fish_seen_subcommand_from layer; and __fish_seen_subcommand_from remove' -s h -l help -d 'Print help'
complete -c plyfs -n '__fish_seen_subcommand_from status' -l json -d 'Print one JSON object a line'
complete -c plyfs -n '__fish_seen_subcommand_from status' -l color -d 'Print colours' -r
complete -c plyfs -n '__fish_seen_subcommand_from status' -l store -d 'Where sessions are kept ($XDG_STATE_HOME/plyfs)' -r
complete -c plyfs -n '__fish_seen_subcommand_from status' -s h -l help -d 'Print help (see more with \'--help\')'
complete -c plyfs -n '__fish_seen_subcommand_from where' -s o -d 'The layers of a view that is not mounted, as `mount` takes them' -x -a '(__plyfs_list)'
complete -c plyfs -n '__fish_seen_subcommand_from where' -l json -d 'Print one JSON object a line'
complete -c plyfs -n '__fish_seen_subcommand_from where' -l color -d 'Print colours' -r
complete -c plyfs -n '__fish_seen_subcommand_from where' -l store -d 'Where sessions are kept ($XDG_STATE_HOME/plyfs)' -r
complete -c plyfs -n '__fish_seen_subcommand_from where' -s h -l help -d 'Print help (see more with \'--help\')'
complete -c plyfs -n '__fish_seen_subcommand_from help' -x -a 'mount show umount complete help run drop diff apply commit log undo redo layer status where'
# end flags

complete -c plyfs -n "__fish_seen_subcommand_from show umount" -x -a '(__plyfs_views; __fish_complete_directories)'
complete -c plyfs -n "not __fish_seen_subcommand_from show umount complete help" -x -a '(__fish_complete_directories)'
