//! Random work against a model of what must be there.

use std::collections::HashMap;

use super::*;
use crate::IfExists;

/// Length of an object: mostly small, sometimes large.
fn random_len(rng: &mut fastrand::Rng, most: usize) -> usize {
    let most = match rng.u8(..4) {
        0 => 5000,
        1 => 100_000,
        2 => 2 * MIB,
        _ => most,
    };
    rng.usize(1..=most)
}

/// One client: puts, gets and removes by host and GPU, each result compared with the model.
fn client(world: &World, seed: u64, steps: usize, most: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let stream = Stream::new(&world.gpu).unwrap();
    let mut model: HashMap<u8, (u64, usize)> = HashMap::new();
    let replace = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
    let key_of = |id: u8| [seed as u8, id];
    for step in 0..steps {
        let id = rng.u8(..6);
        let key = key_of(id);
        match rng.u8(..10) {
            0..=3 => {
                let (content, len) = (seed * 1_000_000 + step as u64, random_len(&mut rng, most));
                let payload = bytes(content, len);
                let result = if rng.u8(..4) == 0 {
                    world.store.put(&key, payload.as_slice(), &replace)
                } else {
                    let source = Scattered::new(world, &mut rng, len);
                    source.fill(&payload);
                    let put = world.store.put_on(&stream, &key, source.run.clone(), &replace);
                    let result = put.and_then(crate::DevicePut::wait);
                    assert!(source.read() == payload, "a put changed its source, seed {seed}");
                    result
                };
                match result {
                    Ok(_) => drop(model.insert(id, (content, len))),
                    Err(StoreError::Full { .. }) => {}
                    Err(error) => panic!("seed {seed}, step {step}: {error:?}"),
                }
            }
            4 => {
                world.store.remove(&key, crate::Durability::Sync).unwrap();
                model.remove(&id);
            }
            5 => {
                if let Ok(got) = world.store.get_vec(&key).unwrap() {
                    let (content, len) = model[&id];
                    assert!(got == bytes(content, len), "host, seed {seed}, step {step}");
                }
            }
            _ => get_some(world, &stream, &mut rng, &key_of, &mut model, (seed, step)),
        }
    }
}

/// Gets several keys at once into memory of any kind.
fn get_some(
    world: &World,
    stream: &Stream,
    rng: &mut fastrand::Rng,
    key_of: &dyn Fn(u8) -> [u8; 2],
    model: &mut HashMap<u8, (u64, usize)>,
    at: (u64, usize),
) {
    let ids: Vec<u8> = (0..rng.u8(1..4)).map(|_| rng.u8(..6)).collect();
    let keys: Vec<_> = ids.iter().map(|&id| key_of(id)).collect();
    let sinks: Vec<_> = ids
        .iter()
        .map(|id| Scattered::new(world, rng, model.get(id).map_or(10, |(_, len)| *len)))
        .collect();
    let items = keys.iter().zip(&sinks).map(|(key, sink)| (&key[..], sink.run.clone()));
    let results = world.store.get_on(stream, items).unwrap().wait();
    for ((id, sink), result) in ids.iter().zip(&sinks).zip(results) {
        assert!(sink.is_clean_outside(), "{at:?}");
        match result.unwrap() {
            Lookup::Hit(_) => {
                let (content, len) = model[id];
                assert!(sink.read() == bytes(content, len), "wrong bytes at {at:?}");
            }
            // Evicted, or never there.
            Lookup::Miss(reason) => {
                assert!(matches!(reason, crate::MissReason::Absent), "{reason:?} at {at:?}");
                model.remove(id);
            }
        }
    }
}

#[test]
fn gets_and_puts_of_all_sizes_into_any_memory_agree_with_the_model() {
    for seed in 1..5 {
        let world = World::new(1 + seed as usize % 3, 96 * MIB);
        client(&world, seed, 40, 8 * MIB);
        let stats = world.store.stats();
        assert_eq!(stats.device_fallbacks, 0, "seed {seed}");
        assert!(stats.device_gets > 0 && stats.device_puts > 0, "seed {seed}");
    }
}

#[test]
fn an_object_of_40_mib_goes_both_ways_whatever_its_memory() {
    let world = World::new(2, 256 * MIB);
    let len = 40 * MIB - 7;
    let payload = bytes(9, len);
    for seed in 0..4 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let source = Scattered::new(&world, &mut rng, len);
        source.fill(&payload);
        let replace = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
        let put = world.store.put_on(&world.stream, b"k", source.run.clone(), &replace).unwrap();
        put.wait().unwrap();
        let sink = Scattered::new(&world, &mut rng, len);
        let get = world.store.get_on(&world.stream, [(&b"k"[..], sink.run.clone())]).unwrap();
        assert!(get.wait().pop().unwrap().unwrap().is_hit());
        assert!(sink.read() == payload && sink.is_clean_outside(), "seed {seed}");
    }
    assert_eq!(world.store.stats().device_fallbacks, 0);
}

#[test]
fn many_threads_and_streams_never_see_each_others_bytes() {
    let world = World::new(2, 128 * MIB);
    std::thread::scope(|scope| {
        for seed in 10..16 {
            let world = &world;
            scope.spawn(move || client(world, seed, 20, 2 * MIB));
        }
    });
    assert_eq!(world.store.stats().device_fallbacks, 0);
}

#[test]
fn puts_of_the_same_keys_in_any_order_do_not_wait_for_each_other_for_good() {
    let world = World::new(1, 64 * MIB);
    let replace = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (world, replace) = (&world, &replace);
            scope.spawn(move || {
                let stream = Stream::new(&world.gpu).unwrap();
                let mut rng = fastrand::Rng::with_seed(seed);
                let buffers: Vec<_> = (0..6).map(|key| world.filled(&bytes(key, 5000))).collect();
                for _ in 0..10 {
                    let mut keys: Vec<u8> = vec![0, 1, 2, 3, 4, 5, 0];
                    rng.shuffle(&mut keys);
                    let items = keys.iter().map(std::slice::from_ref);
                    let items =
                        items.map(|key| (key, DeviceRun::from(&buffers[usize::from(key[0])])));
                    let results = world.store.put_many_on(&stream, items, replace);
                    assert_eq!(results.len(), keys.len());
                    assert!(results.iter().all(Result::is_ok), "{results:?}");
                }
            });
        }
    });
    for key in 0..6 {
        world.assert_gets(&[key], key.into(), 5000);
    }
}

#[test]
fn objects_that_are_evicted_while_they_are_read_are_read_whole() {
    // Room for about twelve objects of 1 MiB.
    let world = World::new(1, 16 * MIB);
    let len = MIB - 5000;
    let targets: Vec<_> = (0..8).map(|_| world.filled(&vec![0; len])).collect();
    for i in 0..8u64 {
        put(&world.store, &i.to_le_bytes(), i, len);
    }
    let gate = world.stream.gate().unwrap();
    let keys: Vec<_> = (0..8u64).map(u64::to_le_bytes).collect();
    let items = keys.iter().zip(&targets).map(|(key, target)| (&key[..], target.into()));
    let gets = world.store.get_on(&world.stream, items).unwrap();
    // Pushes the objects out while their reads have not begun. Some puts find no room: it is held.
    let full = (100..130u64)
        .filter(|i| {
            let put = world.store.put(&i.to_le_bytes(), bytes(*i, len).as_slice(), &quick());
            put.is_err()
        })
        .count();
    assert!((0..8u64).any(|i| !world.store.contains(&i.to_le_bytes())));
    gate.open();
    let results = gets.wait();
    for (i, (result, target)) in results.into_iter().zip(&targets).enumerate() {
        assert!(result.unwrap().is_hit(), "{i}, {full} puts were refused");
        let mut got = vec![0; len];
        target.copy_out(0, &mut got).unwrap();
        assert!(got == bytes(i as u64, len), "{i}");
    }
}

fn quick() -> PutOptions {
    PutOptions::default()
}

#[test]
fn puts_that_were_acknowledged_survive_power_cuts_whole() {
    let drives = MemDrive::several(2, 24 * MIB);
    format_small(&drives);
    let mut model: HashMap<u8, (u64, usize)> = HashMap::new();
    for round in 0..12u64 {
        let mut rng = fastrand::Rng::with_seed(round);
        let world = World::of(drives.clone(), open(&drives));
        model.retain(|id, (content, len)| {
            let (lookup, got) = world.get(&[*id], *len);
            // A miss is what became of an object that was evicted before the cut, never wrong bytes.
            assert!(!lookup.is_hit() || got == bytes(*content, *len), "round {round}, key {id}");
            assert!(lookup.is_hit() || world.store.stats().evicted > 0 || round > 0);
            lookup.is_hit()
        });
        let kept = model.len();
        drives[rng.usize(..2)]
            .writes_left
            .store(rng.i64(20..3000), std::sync::atomic::Ordering::SeqCst);
        let replace = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
        let mut lost = Vec::new();
        for step in 0..40 {
            let (id, content) = (rng.u8(..8), round * 1000 + step);
            let len = random_len(&mut rng, 500_000).min(500_000);
            let source = world.filled(&bytes(content, len));
            let put = world.store.put_on(&world.stream, &[id], &source, &replace);
            match put.and_then(crate::DevicePut::wait) {
                Ok(_) => drop(model.insert(id, (content, len))),
                Err(_) => {
                    // It may have become durable or not.
                    model.remove(&id);
                    lost.push(id);
                }
            }
        }
        assert!(round == 0 || kept + lost.len() > 0);
        drop(world);
        drives.iter().for_each(|drive| drive.power_cycle(round));
        // The pool is small, but all of this fits: nothing that was acknowledged may be missing.
        let check = World::of(drives.clone(), open(&drives));
        for (id, (content, len)) in &model {
            check.assert_gets(&[*id], *content, *len);
        }
    }
}
