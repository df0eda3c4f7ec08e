use super::*;
use crate::{LayerSink, MissReason};

/// Objects that hold the same layers, and memory for each layer of each.
fn cut(rng: &mut fastrand::Rng, len: usize, layers: usize) -> Vec<(usize, usize)> {
    let mut ends: Vec<usize> = (1..layers).map(|_| rng.usize(1..len)).chain([len]).collect();
    ends.sort_unstable();
    ends.dedup();
    let starts = [0].into_iter().chain(ends.clone());
    starts.zip(&ends).map(|(start, end)| (start, end - start)).collect()
}

#[test]
fn layers_come_in_order_and_whole_whatever_the_prefetch() {
    for prefetch in [1, 2, 4, 100] {
        for seed in 0..3 {
            let mut rng = fastrand::Rng::with_seed(seed * 10 + prefetch as u64);
            let world = World::new(1 + seed as usize, 96 * MIB);
            let len = rng.usize(300_000..9 * MIB);
            let keys: Vec<[u8; 1]> = (0..3).map(|i| [i]).collect();
            for key in &keys {
                put(&world.store, key, key[0].into(), len);
            }
            let ranges = cut(&mut rng, len, 12);
            let sinks: Vec<Vec<Scattered>> = ranges
                .iter()
                .map(|range| {
                    keys.iter().map(|_| Scattered::new(&world, &mut rng, range.1)).collect()
                })
                .collect();
            let layers = ranges.iter().zip(&sinks).map(|(range, sinks)| {
                sinks.iter().enumerate().fold(LayerSink::default(), |layer, (key, sink)| {
                    layer.part(key, range.0 as u32, sink.run.clone())
                })
            });
            let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
            let layers =
                world.store.get_layers(&world.stream, &keys, layers.collect(), prefetch).unwrap();
            let mut seen = 0;
            for layer in layers {
                assert_eq!(layer.index, seen);
                assert!(layer.is_hit(), "{layer:?}");
                world.stream.wait(layer.landed().unwrap()).unwrap();
                let (start, take) = ranges[layer.index];
                for (key, sink) in sinks[layer.index].iter().enumerate() {
                    let whole = bytes(key as u64, len);
                    assert!(sink.read() == whole[start..start + take], "layer {seen}, key {key}");
                    assert!(sink.is_clean_outside());
                }
                seen += 1;
            }
            assert_eq!(seen, ranges.len());
            assert_eq!(world.store.stats().device_fallbacks, 0);
        }
    }
}

#[test]
fn two_buffers_are_enough_for_any_number_of_layers() {
    let world = World::new(1, 64 * MIB);
    let (layers, layer_len) = (16, 200_000);
    put(&world.store, b"k", 7, layers * layer_len);
    let buffers = [0, 1].map(|_| world.filled(&vec![0; layer_len]));
    let out = world.filled(&vec![0; layers * layer_len]);
    let sinks =
        (0..layers).map(|i| LayerSink::new((i * layer_len) as u32, &buffers[i % 2])).collect();
    for layer in world.store.get_layers(&world.stream, &[b"k"], sinks, 2).unwrap() {
        assert!(layer.is_hit());
        // What uses the layer goes to the stream before the next layer is asked for, and is slow.
        let (slow, index) = (Duration::from_millis(3), layer.index);
        world.stream.host(Box::new(move || std::thread::sleep(slow))).unwrap();
        let to = out.slice(index * layer_len, layer_len).unwrap();
        world.stream.copy(&buffers[index % 2].as_slice(), &to).unwrap();
    }
    world.stream.synchronize(SOON).unwrap();
    let mut got = vec![0; layers * layer_len];
    out.copy_out(0, &mut got).unwrap();
    assert!(got == bytes(7, layers * layer_len));
}

#[test]
fn no_more_layers_are_read_ahead_than_asked_for() {
    let world = World::new(1, 64 * MIB);
    put(&world.store, b"k", 7, 10 * 65_536);
    let buffers: Vec<_> = (0..10).map(|_| world.filled(&[0x11; 65_536])).collect();
    let sinks = buffers.iter().enumerate().map(|(i, b)| LayerSink::new(i as u32 * 65_536, b));
    let mut layers = world.store.get_layers(&world.stream, &[b"k"], sinks.collect(), 3).unwrap();
    let untouched = |buffer: &DeviceBuffer| {
        let mut got = vec![0; 65_536];
        buffer.copy_out(0, &mut got).unwrap();
        got.iter().all(|&byte| byte == 0x11)
    };
    for done in 0..10 {
        assert!(layers.next().unwrap().is_hit());
        std::thread::sleep(Duration::from_millis(5));
        assert!(buffers.iter().skip(done + 3).all(untouched), "after layer {done}");
        assert!(!untouched(&buffers[done]));
        assert_eq!(layers.remaining(), 9 - done);
    }
    assert!(layers.next().is_none());
}

#[test]
fn a_damaged_layer_is_a_miss_and_so_are_those_behind_it_and_other_objects_are_not() {
    let world = World::new(1, 64 * MIB);
    let len = 8 * 65_536;
    put(&world.store, b"good", 1, len);
    put(&world.store, b"bad", 2, len);
    let image = world.drives[0].snapshot();
    let part = &bytes(2, len)[5 * 65_536 + 100..][..64];
    let at = image.windows(64).position(|window| window == part).unwrap();
    world.drives[0].corrupt(at as u64, 1);
    let buffers: Vec<_> = (0..16).map(|_| world.filled(&[0; 65_536])).collect();
    let sinks = (0..8).map(|i| {
        let offset = i as u32 * 65_536;
        LayerSink::new(offset, &buffers[i]).part(1, offset, &buffers[8 + i])
    });
    let keys: [&[u8]; 2] = [b"good", b"bad"];
    let layers = world.store.get_layers(&world.stream, &keys, sinks.collect(), 2).unwrap();
    for layer in layers {
        let [good, bad] = layer.results.as_slice() else { panic!("{layer:?}") };
        assert!(good.as_ref().unwrap().is_hit());
        match layer.index < 5 {
            true => assert!(bad.as_ref().unwrap().is_hit(), "{layer:?}"),
            false => {
                assert!(matches!(bad, Ok(Lookup::Miss(MissReason::Damaged { .. }))), "{layer:?}")
            }
        }
    }
    assert!(!world.store.contains(b"bad") && world.store.contains(b"good"));
}

#[test]
fn layers_that_make_no_sense_are_refused_before_anything_is_read() {
    let world = World::new(1, 16 * MIB);
    put(&world.store, b"k", 1, 1000);
    let buffer = world.filled(&[0; 600]);
    let layers = |sinks: Vec<LayerSink>, prefetch| {
        let keys: [&[u8]; 2] = [b"k", b"none"];
        world.store.get_layers(&world.stream, &keys, sinks, prefetch).map(Iterator::count)
    };
    assert!(matches!(layers(vec![], 0), Err(StoreError::Invalid { .. })));
    let outside = vec![LayerSink::new(0, &buffer), LayerSink::new(500, &buffer)];
    assert!(matches!(layers(outside, 1), Err(StoreError::WrongSize { object: 500, target: 600 })));
    let unknown = vec![LayerSink::default().part(2, 0, &buffer)];
    assert!(matches!(layers(unknown, 1), Err(StoreError::Invalid { .. })));
    let absent = vec![LayerSink::default().part(1, 0, &buffer)];
    assert_eq!(layers(absent, 1).unwrap(), 1);
    assert_eq!(layers(vec![], 1).unwrap(), 0);
}

#[test]
fn layers_given_up_half_way_let_go_of_their_objects() {
    let world = World::new(1, 64 * MIB);
    let len = 20 * 65_536;
    put(&world.store, b"k", 7, len);
    let buffers: Vec<_> = (0..20).map(|_| world.filled(&[0; 65_536])).collect();
    let sinks = buffers.iter().enumerate().map(|(i, b)| LayerSink::new(i as u32 * 65_536, b));
    let mut layers = world.store.get_layers(&world.stream, &[b"k"], sinks.collect(), 4).unwrap();
    assert!(layers.next().unwrap().is_hit());
    drop(layers);
    world.store.remove(b"k", crate::Durability::Sync).unwrap();
    until(|| world.store.stats().used_bytes == 0);
}

/// Waits for something that threads bring about.
pub(super) fn until(mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + SOON;
    while !condition() {
        assert!(std::time::Instant::now() < end, "it did not come to that in time");
        std::thread::sleep(Duration::from_millis(1));
    }
}
