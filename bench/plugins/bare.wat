;; What a call from a guest to its host costs, and nothing else: run calls emit
;; n times. Build: wat2wasm bare.wat
(module
  (import "bare" "emit" (func $emit (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "run") (param $n i32)
    (loop $l
      (drop (call $emit (i32.const 1) (i32.const 0) (i32.const 20)))
      (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))
