use super::*;

const ROOT: Abilities = Abilities { mounts_directly: true, ids_are_initial: true };
const USER: Abilities = Abilities { mounts_directly: false, ids_are_initial: true };
const NAMESPACE: Abilities = Abilities { mounts_directly: true, ids_are_initial: false };

fn with(options: &str, abilities: Abilities) -> Result<Resolved, Failure> {
    let words = grammar::split_options(options.as_bytes());
    resolve(&words, None, Path::new("/m"), Manner::default(), abilities)
}

fn config(options: &str) -> Config {
    with(&format!("lowerdir=/l,{options}"), ROOT).unwrap().config
}

fn flags(options: &str, abilities: Abilities) -> Flags {
    with(&format!("lowerdir=/l,upperdir=/u,workdir=/w,{options}"), abilities).unwrap().mount.flags
}

#[test]
fn layers_come_in_the_order_given_and_lowerdir_starts_anew() {
    let lowers = |options: &str| with(options, ROOT).unwrap().config.lowers;
    assert_eq!(lowers("lowerdir=/a:/b"), [Path::new("/a"), Path::new("/b")]);
    assert_eq!(
        lowers(r"lowerdir+=/a,lowerdir+=/b:x,lowerdir+=/c\:y"),
        [Path::new("/a"), Path::new("/b:x"), Path::new(r"/c\:y")]
    );
    assert_eq!(lowers("lowerdir+=/a,lowerdir=/b"), [Path::new("/b")]);
    assert_eq!(lowers("lowerdir=a"), [std::env::current_dir().unwrap().join("a")]);
}

#[test]
fn data_only_layers_lie_below_all_others() {
    for (options, expected) in [
        ("lowerdir=/a:/b::/c::/d", Some((&["/a", "/b"][..], &["/c", "/d"][..]))),
        ("lowerdir+=/a,datadir+=/c,datadir+=/d:e", Some((&["/a"], &["/c", "/d:e"]))),
        ("lowerdir+=/a,lowerdir+=/b,datadir+=/c", Some((&["/a", "/b"], &["/c"]))),
        (r"lowerdir+=/a,datadir+=/c\:d", Some((&["/a"], &[r"/c\:d"]))),
        ("lowerdir=/a,datadir+=/c", None),
        ("lowerdir=/a::/c,datadir+=/d", None),
        ("lowerdir=/a,lowerdir+=/b", None),
        ("lowerdir=/a::/c,lowerdir=/b", Some((&["/b"], &[]))),
        ("datadir+=/c,lowerdir=/a", Some((&["/a"], &[]))),
        ("lowerdir+=/x,datadir+=/c,lowerdir=/a", Some((&["/a"], &[]))),
        ("datadir+=/c", None),
        ("datadir+=/c,lowerdir+=/a", None),
        ("lowerdir+=/a,datadir+=/c,lowerdir+=/b", None),
        ("lowerdir=/a::/c,lowerdir+=/b", None),
        ("lowerdir=/a::/c:/b", None),
    ] {
        let config = with(options, ROOT).ok().map(|resolved| resolved.config);
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        let expected = expected.map(|(lowers, data_only)| (paths(lowers), paths(data_only)));
        assert_eq!(config.map(|config| (config.lowers, config.data_only)), expected, "{options}");
    }
    assert!(with("datadir+=/c", ROOT).unwrap_err().to_string().contains("datadir+"));
}

#[test]
fn what_is_not_said_of_redirects_metacopy_and_index_is_left_to_the_layers() {
    let config = config("rw");
    assert_eq!((config.redirect_dir, config.index, config.metacopy), (None, None, None));
    assert_eq!((config.verity, config.uuid, config.userxattr), (Verity::Off, Uuid::Auto, false));
}

#[test]
fn what_is_said_of_index_and_uuid_is_taken_over_also_without_an_upper() {
    for (option, expected) in [("index=on", Some(true)), ("index=off", Some(false)), ("index=off,index=on", Some(true))]
    {
        assert_eq!(config(option).index, expected, "{option}");
    }
    for (options, expected) in [
        ("metacopy=off,redirect_dir=off", Some(false)),
        ("metacopy=off,redirect_dir=off,index=on", Some(true)),
        ("metacopy=off", None),
        ("redirect_dir=off", None),
    ] {
        assert_eq!(config(options).index, expected, "{options}");
    }
    for (option, expected) in
        [("uuid=off", Uuid::Off), ("uuid=null", Uuid::Null), ("uuid=auto", Uuid::Auto), ("uuid=on", Uuid::On)]
    {
        assert_eq!(config(option).uuid, expected, "{option}");
    }
}

#[test]
fn metacopy_needs_redirects_and_digests_need_metacopy() {
    use RedirectDir::{Follow, NoFollow, On};
    for (options, expected) in [
        ("redirect_dir=on", (Some(On), None, Verity::Off)),
        ("redirect_dir=follow", (Some(Follow), Some(false), Verity::Off)),
        ("redirect_dir=nofollow", (Some(NoFollow), Some(false), Verity::Off)),
        ("redirect_dir=off", (Some(NoFollow), Some(false), Verity::Off)),
        ("redirect_dir=off,redirect_dir=on", (Some(On), None, Verity::Off)),
        ("redirect_dir=on,metacopy=on", (Some(On), Some(true), Verity::Off)),
        ("redirect_dir=on,metacopy=off", (Some(On), Some(false), Verity::Off)),
        ("redirect_dir=off,metacopy=off", (Some(NoFollow), Some(false), Verity::Off)),
        ("metacopy=on", (None, Some(true), Verity::Off)),
        ("metacopy=off", (None, Some(false), Verity::Off)),
        ("verity=off", (None, None, Verity::Off)),
        ("verity=off,metacopy=off", (None, Some(false), Verity::Off)),
        ("verity=on", (None, None, Verity::On)),
        ("verity=on,metacopy=off", (None, Some(false), Verity::On)),
        ("verity=require,redirect_dir=follow", (Some(Follow), Some(false), Verity::Require)),
        ("verity=require", (None, None, Verity::Require)),
        ("verity=require,verity=off", (None, None, Verity::Off)),
        ("verity=on,metacopy=on,redirect_dir=on", (Some(On), Some(true), Verity::On)),
        // The kernel refuses these.
        ("userxattr,redirect_dir=on", (Some(On), None, Verity::Off)),
        ("userxattr,metacopy=on,verity=on", (None, Some(true), Verity::On)),
    ] {
        let options = format!("lowerdir=/l,upperdir=/u,workdir=/w,{options}");
        let config = with(&options, ROOT).unwrap().config;
        assert_eq!((config.redirect_dir, config.metacopy, config.verity), expected, "{options}");
    }
}

#[test]
fn contradictions_are_refused_with_both_options_named() {
    for (options, names) in [
        ("metacopy=on,redirect_dir=follow", ["metacopy=on", "redirect_dir="]),
        ("metacopy=on,redirect_dir=nofollow", ["metacopy=on", "redirect_dir="]),
        ("redirect_dir=off,metacopy=on", ["metacopy=on", "redirect_dir="]),
        ("verity=on,metacopy=on,redirect_dir=off", ["metacopy=on", "redirect_dir="]),
    ] {
        let failure = with(&format!("lowerdir=/l,upperdir=/u,workdir=/w,{options}"), ROOT).unwrap_err();
        let text = failure.to_string();
        assert!(names.iter().all(|name| text.contains(name)), "{options}: {text}");
        assert_eq!(failure.status, Failure::USAGE);
    }
}

#[test]
fn without_an_upper_following_redirects_is_all_that_metacopy_needs() {
    for (options, expected) in [
        ("redirect_dir=follow", Some(None)),
        ("redirect_dir=follow,metacopy=on", Some(Some(true))),
        ("redirect_dir=nofollow", Some(Some(false))),
        ("redirect_dir=nofollow,metacopy=on", None),
    ] {
        let got = with(&format!("lowerdir=/l,{options}"), ROOT).ok().map(|resolved| resolved.config.metacopy);
        assert_eq!(got, expected, "{options}");
    }
}

#[test]
fn a_stack_needs_a_lower_and_an_upper_needs_a_work_directory() {
    assert!(with("ro", ROOT).unwrap_err().to_string().starts_with("lowerdir"));
    assert!(with("lowerdir=/l,upperdir=/u", ROOT).unwrap_err().to_string().contains("workdir"));
    assert!(with("lowerdir=/l,workdir=/w", ROOT).unwrap().config.upper.is_none());
}

#[test]
fn without_an_upper_the_view_is_read_only_whatever_is_said() {
    assert!(with("lowerdir=/l,rw", ROOT).unwrap().mount.flags.ro);
    assert!(!flags("rw", ROOT).ro);
    assert!(flags("ro", ROOT).ro);
    assert!(!flags("ro,rw", ROOT).ro);
}

#[test]
fn root_gets_suid_and_dev_and_a_normal_user_neither() {
    for (options, abilities, nosuid, nodev) in [
        ("rw", ROOT, false, false),
        ("nosuid", ROOT, true, false),
        ("nosuid,nodev,suid,dev", ROOT, false, false),
        ("rw", NAMESPACE, false, false),
        ("suid,dev", USER, true, true),
    ] {
        let flags = flags(options, abilities);
        assert_eq!((flags.nosuid, flags.nodev), (nosuid, nodev), "{options} {abilities:?}");
    }
}

#[test]
fn set_user_id_counts_only_where_ids_mean_what_they_mean_outside() {
    let suid = |options: &str, abilities| with(&format!("lowerdir=/l,{options}"), abilities).unwrap().config.suid_view;
    assert!(suid("rw", ROOT));
    assert!(!suid("nosuid", ROOT));
    assert!(!suid("suid", USER));
    assert!(!suid("suid", NAMESPACE));
}

#[test]
fn marks_of_others_are_doubted_by_root_whatever_the_flags_of_the_mount_are() {
    let doubts =
        |options: &str, abilities| with(&format!("lowerdir=/l,{options}"), abilities).unwrap().config.doubts_marks;
    for options in ["rw", "nosuid", "nosuid,nodev"] {
        assert!(doubts(options, ROOT), "{options}");
    }
    assert!(!doubts("rw", USER) && !doubts("rw", NAMESPACE));
}

#[test]
fn what_is_synced_is_said_once() {
    for (options, expected) in [
        ("rw", Some(Fsync::Auto)),
        ("volatile", Some(Fsync::Volatile)),
        ("fsync=0", Some(Fsync::Volatile)),
        ("fsync=1", Some(Fsync::Auto)),
        ("fsync=strict", Some(Fsync::Strict)),
        ("volatile,fsync=0", Some(Fsync::Volatile)),
        ("fsync=volatile,volatile", Some(Fsync::Volatile)),
        ("volatile,fsync=strict", None),
        ("fsync=1,volatile", None),
    ] {
        let got = with(&format!("lowerdir=/l,{options}"), ROOT).ok().map(|resolved| resolved.config.fsync);
        assert_eq!(got, expected, "{options}");
    }
}

#[test]
fn a_special_timeout_wins_over_the_general_one_in_any_order() {
    let second = Duration::from_secs(1);
    for options in ["timeout=0,attr_timeout=1", "attr_timeout=1,timeout=0"] {
        let timeouts = config(options).timeouts;
        assert_eq!((timeouts.attr, timeouts.entry, timeouts.negative), (second, Duration::ZERO, Duration::ZERO));
    }
    assert_eq!(config("negative_timeout=0.5").timeouts.entry, Timeouts::FOREVER);
}

#[test]
fn the_source_names_the_mount_unless_fsname_does() {
    let name = |options: &str, source: Option<&str>| {
        let words = grammar::split_options(options.as_bytes());
        resolve(&words, source.map(OsStr::new), Path::new("/m"), Manner::default(), ROOT).unwrap().mount.fsname
    };
    assert_eq!(name("lowerdir=/l", None), "lowerdir=/l");
    assert_eq!(name("lowerdir=/l", Some("overlay")), "overlay");
    assert_eq!(name(r"lowerdir=/l,fsname=a\,b", Some("overlay")), "a,b");
}

#[test]
fn security_options_reach_the_kernel_as_they_stand() {
    let mount = with(r#"lowerdir=/l,context="a:b:c1,c2",ro"#, ROOT).unwrap().mount;
    assert_eq!(mount.security, [r#"context="a:b:c1,c2""#]);
}

#[test]
fn userxattr_may_be_said_by_everyone() {
    for abilities in [ROOT, NAMESPACE, USER] {
        assert!(with("lowerdir=/l,userxattr", abilities).unwrap().config.userxattr, "{abilities:?}");
    }
}

#[test]
fn numbers_are_checked() {
    assert_eq!(with("lowerdir=/l,threads=3", ROOT).unwrap().mount.threads, 3);
    for (words, spin) in [("", Spin::Auto), (",spin=auto", Spin::Auto), (",spin=off", Spin::Off)] {
        assert_eq!(with(&format!("lowerdir=/l{words}"), ROOT).unwrap().mount.spin, spin, "{words}");
    }
    for wrong in ["threads=0", "threads=x", "threads=257", "spin=on", "timeout=-1"] {
        assert!(with(&format!("lowerdir=/l,{wrong}"), ROOT).is_err(), "{wrong}");
    }
}

#[test]
fn sloppy_passes_over_unknown_options_only() {
    let manner = Manner { sloppy: true, in_place: false };
    let sloppy =
        |options: &str| resolve(&grammar::split_options(options.as_bytes()), None, Path::new("/m"), manner, ROOT);
    assert!(sloppy("lowerdir=/l,nosuchoption").is_ok());
    assert!(sloppy("lowerdir=/l,nfs_export=on").is_err());
}

#[test]
fn in_the_place_of_fuse_overlayfs_unknown_options_are_told_and_marks_are_plain() {
    let manner = Manner { sloppy: false, in_place: true };
    let read =
        |options: &str| resolve(&grammar::split_options(options.as_bytes()), None, Path::new("/m"), manner, ROOT);
    let resolved = read("lowerdir=/l,lazytime,frob,x=y,private").unwrap();
    assert_eq!(resolved.unknown, ["frob", "x=y"]);
    assert!(resolved.config.plain && resolved.config.redirect_dir.is_none() && resolved.config.metacopy.is_none());
    assert_eq!(resolved.mount.subtype, "fuse-overlayfs");
    for wrong in ["lowerdir=/l,nfs_export=on", "lowerdir=/l,xino=maybe", "lowerdir=/l,plugins=x"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}
