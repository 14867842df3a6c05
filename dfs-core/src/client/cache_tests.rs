use super::*;
use crate::client::testing::attr;

fn name(s: &str) -> Name {
    Name::new(s).unwrap()
}

fn touched(ino: u64) -> Touched {
    Touched {
        ino: Ino(ino),
        attrs: true,
        content: false,
        entries: false,
    }
}

fn learn_attr(cache: &MetaCache, token: Token, ino: u64) {
    cache.learn(
        token,
        Learned {
            attr: Some(&attr(ino)),
            ..Learned::default()
        },
    );
}

fn learn_name(cache: &MetaCache, token: Token, dir: u64, n: &str, ino: Option<u64>) {
    cache.learn(
        token,
        Learned {
            name: Some((Ino(dir), &name(n), ino.map(Ino))),
            names_interest: true,
            ..Learned::default()
        },
    );
}

#[test]
fn an_answer_to_a_question_older_than_the_invalidation_is_not_cached() {
    let cache = MetaCache::new(100);
    let old = cache.token();
    cache.invalidate(&[touched(5)]);
    learn_attr(&cache, old, 5);
    learn_attr(&cache, old, 6);
    learn_name(&cache, old, 5, "a", Some(6));
    assert_eq!(
        (cache.attr(Ino(5)), cache.attr(Ino(6))),
        (None, Some(attr(6)))
    );
    assert_eq!(cache.lookup(Ino(5), &name("a")), None);
    learn_attr(&cache, cache.token(), 5);
    assert!(cache.attr(Ino(5)).is_some());
    assert!(!cache.is_current(old, Ino(5)) && cache.is_current(old, Ino(6)));
}

#[test]
fn absent_names_and_names_without_attributes_are_told_apart() {
    let cache = MetaCache::new(100);
    let t = cache.token();
    learn_name(&cache, t, 1, "gone", None);
    learn_name(&cache, t, 1, "there", Some(7));
    assert_eq!(cache.lookup(Ino(1), &name("gone")), Some(None));
    assert_eq!(cache.lookup(Ino(1), &name("there")), None);
    learn_attr(&cache, t, 7);
    assert_eq!(cache.lookup(Ino(1), &name("there")), Some(Some(attr(7))));
    cache.invalidate(&[touched(1)]);
    assert_eq!(cache.lookup(Ino(1), &name("there")), None);
}

#[test]
fn of_two_changes_at_once_neither_answer_is_cached() {
    let cache = MetaCache::new(100);
    let keys = [Key::Node(Ino(5))];
    let five = attr(5);
    let learned = || Learned {
        attr: Some(&five),
        ..Learned::default()
    };
    let (first, second) = (cache.begin(keys.to_vec()), cache.begin(keys.to_vec()));
    second.end(learned());
    first.end(learned());
    assert_eq!(cache.attr(Ino(5)), None);
    let alone = cache.begin(keys.to_vec());
    let asked_meanwhile = cache.token();
    alone.end(learned());
    assert!(cache.attr(Ino(5)).is_some());
    cache.drop_nodes();
    learn_attr(&cache, asked_meanwhile, 5);
    assert_eq!(cache.attr(Ino(5)), None);
}

#[test]
fn a_created_name_is_cached_only_in_a_directory_of_interest() {
    let cache = MetaCache::new(100);
    let keys = [Key::Name(Ino(1), name("new")), Key::Node(Ino(1))];
    let create = || {
        let change = cache.begin(keys.to_vec());
        let learned = Learned {
            attr: Some(&attr(9)),
            name: Some((Ino(1), &name("new"), Some(Ino(9)))),
            ..Learned::default()
        };
        change.end(learned);
    };
    create();
    assert_eq!(cache.lookup(Ino(1), &name("new")), None);
    learn_name(&cache, cache.token(), 1, "other", None);
    create();
    assert_eq!(cache.lookup(Ino(1), &name("new")), Some(Some(attr(9))));
}

fn make(cache: &MetaCache, dir: u64, n: &str, learned: Learned<'_>) {
    let keys = [Key::Name(Ino(dir), name(n)), Key::Node(Ino(dir))];
    let change = cache.begin(keys.to_vec());
    change.end(learned);
}

fn make_dir(cache: &MetaCache, ino: u64) {
    let made_dir = Some(Ino(ino));
    let learned = Learned {
        made_dir,
        ..Learned::default()
    };
    make(cache, 1, "d", learned);
}

#[test]
fn a_name_is_absent_from_a_directory_made_here_until_one_is_dropped() {
    let cache = MetaCache::new(100);
    make_dir(&cache, 2);
    assert_eq!(cache.lookup(Ino(2), &name("x")), Some(None));
    let x = name("x");
    let learned = Learned {
        attr: Some(&attr(9)),
        name: Some((Ino(2), &x, Some(Ino(9)))),
        ..Learned::default()
    };
    make(&cache, 2, "x", learned);
    assert_eq!(cache.lookup(Ino(2), &x), Some(Some(attr(9))));
    assert_eq!(cache.lookup(Ino(2), &name("y")), Some(None));
    // Whether this one is there now is not known.
    make(&cache, 2, "y", Learned::default());
    assert_eq!(cache.lookup(Ino(2), &name("y")), None);
    assert_eq!(cache.lookup(Ino(2), &name("z")), None);
}

#[test]
fn nobody_elses_name_is_taken_for_absent() {
    let cache = MetaCache::new(100);
    make_dir(&cache, 2);
    cache.invalidate(&[touched(2)]);
    assert_eq!(cache.lookup(Ino(2), &name("x")), None);
    // Told of before the answer to the making of it came.
    let keys = [Key::Name(Ino(1), name("d")), Key::Node(Ino(1))];
    let change = cache.begin(keys.to_vec());
    cache.invalidate(&[touched(3)]);
    let learned = Learned {
        made_dir: Some(Ino(3)),
        ..Learned::default()
    };
    change.end(learned);
    assert_eq!(cache.lookup(Ino(3), &name("x")), None);
    make_dir(&cache, 4);
    for i in 0..200 {
        learn_name(&cache, cache.token(), 5, &format!("n{i}"), Some(i));
    }
    assert_eq!(
        cache.lookup(Ino(4), &name("x")),
        None,
        "some may be evicted"
    );
}

#[test]
fn it_stays_bounded_and_keeps_what_is_used() {
    let cache = MetaCache::new(100);
    let t = cache.token();
    learn_attr(&cache, t, 1);
    for ino in 2..1000 {
        learn_attr(&cache, t, ino);
        learn_name(&cache, t, ino % 7, &format!("n{ino}"), Some(ino));
        assert!(cache.attr(Ino(1)).is_some());
        assert!(cache.len() <= 110, "{}", cache.len());
    }
    cache.drop_all();
    assert_eq!(cache.len(), 0);
    learn_attr(&cache, t, 1);
    assert_eq!(cache.attr(Ino(1)), None);
}

#[test]
fn regression_nothing_is_answered_of_what_is_being_changed() {
    let cache = MetaCache::new(100);
    make_dir(&cache, 2);
    learn_attr(&cache, cache.token(), 7);
    let x = name("x");
    let keys = vec![Key::Name(Ino(2), x.clone()), Key::Node(Ino(7))];
    assert_eq!(cache.lookup(Ino(2), &x), Some(None));
    let change = cache.begin(keys.clone());
    let other = cache.begin(keys.clone());
    for _ in 0..2 {
        assert_eq!(cache.lookup(Ino(2), &x), None, "others may see it already");
        assert_eq!(cache.attr(Ino(7)), None);
        assert_eq!(cache.lookup(Ino(2), &name("y")), Some(None));
        // What is asked meanwhile is for whoever asked.
        learn_attr(&cache, cache.token(), 7);
    }
    other.end(Learned::default());
    assert_eq!(cache.attr(Ino(7)), None);
    change.end(Learned::default());
    learn_attr(&cache, cache.token(), 7);
    assert_eq!(cache.attr(Ino(7)), Some(attr(7)));
    // One that is given up may still happen.
    learn_attr(&cache, cache.token(), 8);
    drop(cache.begin(keys));
    assert_eq!(cache.attr(Ino(7)), None);
    assert_eq!(cache.attr(Ino(8)), None);
    assert!(cache.inner().changing.is_empty());
    let shown = cache.begin_shown(vec![Key::Node(Ino(7))]);
    learn_attr(&cache, cache.token(), 7);
    assert_eq!(cache.attr(Ino(7)), Some(attr(7)));
    shown.end(Learned::default());
    assert_eq!(cache.attr(Ino(7)), None);
}
