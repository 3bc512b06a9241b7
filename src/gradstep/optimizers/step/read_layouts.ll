; Read the layouts of tensors, or compare them with rows that were read before.
;
; A row is [5 x i64]: pointer, dtype, elements, geometry and device (see the columns in part.py). What begins with a
; dollar sign is replaced before it is compiled: addresses of functions and objects by "inttoptr", the others by numbers.

; Mix a number into a hash.
define internal i64 @mix(i64 %seed, i64 %number) alwaysinline {
  %different = xor i64 %seed, %number
  %product = mul i64 %different, $multiplier
  %high = lshr i64 %product, 29
  %mixed = xor i64 %product, %high
  ret i64 %mixed
}

define internal void @read_layout(ptr %list, i64 %i, ptr %row) {
entry:
  %cell = alloca ptr
  %long = alloca i64
  %int = alloca i32
  %address = alloca ptr
  %pointer = getelementptr i64, ptr %row, i64 0
  %dtype = getelementptr i64, ptr %row, i64 1
  %numel = getelementptr i64, ptr %row, i64 2
  %geometry = getelementptr i64, ptr %row, i64 3
  %device = getelementptr i64, ptr %row, i64 4
  store [5 x i64] [i64 0, i64 -1, i64 0, i64 0, i64 0], ptr %row
  %tensor = call ptr $PyList_GetItem(ptr %list, i64 %i)
  %type = call ptr $PyObject_Type(ptr %tensor)
  call void $Py_DecRef(ptr %type)
  %is_tensor = icmp eq ptr %type, $type0
  %is_parameter = icmp eq ptr %type, $type1
  %plain = or i1 %is_tensor, %is_parameter
  br i1 %plain, label %sign, label %done
sign:
  ; This call releases Python's lock, so the memory is read after it.
  %neg = call ptr $PyObject_CallOneArg(ptr $is_neg, ptr %tensor)
  call void $Py_DecRef(ptr %neg)
  %cdata = call ptr $PyObject_GetAttr(ptr %tensor, ptr $cdata)
  %handle = call ptr $PyLong_AsVoidPtr(ptr %cdata)
  call void $Py_DecRef(ptr %cdata)
  store ptr %handle, ptr %cell
  %positive = icmp eq ptr %neg, $false
  %exists = icmp ne ptr %handle, null
  %usual = and i1 %positive, %exists
  br i1 %usual, label %kind, label %done
kind:
  call i32 $layout(ptr %cell, ptr %int)
  %layout = load i32, ptr %int
  %strided = icmp eq i32 %layout, 0
  br i1 %strided, label %fields, label %done
fields:
  call i32 $data_ptr(ptr %cell, ptr %pointer)
  call i32 $numel(ptr %cell, ptr %numel)
  call i32 $dtype(ptr %cell, ptr %int)
  %dtype32 = load i32, ptr %int
  %dtype64 = sext i32 %dtype32 to i64
  store i64 %dtype64, ptr %dtype
  call i32 $device_type(ptr %cell, ptr %int)
  %device32 = load i32, ptr %int
  %device64 = sext i32 %device32 to i64
  store i64 %device64, ptr %device
  call i32 $dim(ptr %cell, ptr %long)
  %dim = load i64, ptr %long
  %start = xor i64 %dim, $multiplier
  call i32 $sizes(ptr %cell, ptr %address)
  %sizes = load ptr, ptr %address
  call i32 $strides(ptr %cell, ptr %address)
  %strides = load ptr, ptr %address
  br label %axes
axes:
  %axis = phi i64 [0, %fields], [%next_axis, %mix]
  %seed = phi i64 [%start, %fields], [%mixed, %mix]
  %reach = phi i64 [1, %fields], [%next_reach, %mix]
  %within = icmp slt i64 %axis, %dim
  br i1 %within, label %mix, label %all_mixed
mix:
  %size_at = getelementptr i64, ptr %sizes, i64 %axis
  %size = load i64, ptr %size_at
  %stride_at = getelementptr i64, ptr %strides, i64 %axis
  %given_stride = load i64, ptr %stride_at
  %single = icmp eq i64 %size, 1
  %stride = select i1 %single, i64 0, i64 %given_stride
  %half = call i64 @mix(i64 %seed, i64 %size)
  %mixed = call i64 @mix(i64 %half, i64 %stride)
  %steps = sub i64 %size, 1
  %further = mul i64 %steps, %given_stride
  %next_reach = add i64 %reach, %further
  %next_axis = add i64 %axis, 1
  br label %axes
all_mixed:
  store i64 %seed, ptr %geometry
  store i64 0, ptr %long
  call i32 $storage_size(ptr %cell, ptr %long)
  %bytes = load i64, ptr %long
  call i32 $storage_offset(ptr %cell, ptr %long)
  %offset = load i64, ptr %long
  %itemsize = call i64 $element_size(i32 %dtype32)
  %last = add i64 %offset, %reach
  %needed = mul i64 %last, %itemsize
  %short = icmp slt i64 %bytes, %needed
  br i1 %short, label %too_short, label %done
too_short:
  store i64 0, ptr %pointer
  br label %done
done:
  ret void
}

define i64 @task(i64 %count, ptr %list, ptr %rows, i64 %dtype, ptr %pointers) {
entry:
  %now = alloca [5 x i64]
  %reads = icmp eq i64 %dtype, $read
  %compares = icmp eq i64 %dtype, $compare
  br label %next
next:
  %i = phi i64 [0, %entry], [%following, %alike]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %end
one:
  %row = getelementptr [5 x i64], ptr %rows, i64 %i
  %target = select i1 %reads, ptr %row, ptr %now
  call void @read_layout(ptr %list, i64 %i, ptr %target)
  %is = load <5 x i64>, ptr %target, align 8
  %was = load <5 x i64>, ptr %row, align 8
  %equal = icmp eq <5 x i64> %is, %was
  %pointer = extractelement <5 x i64> %is, i64 0
  %tensor_dtype = extractelement <5 x i64> %is, i64 1
  br i1 %compares, label %all, label %likes
all:
  %same = call i1 @llvm.vector.reduce.and.v5i1(<5 x i1> %equal)
  br i1 %same, label %alike, label %end
likes:
  br i1 %reads, label %alike, label %like
like:
  ; Elements, geometry and device must be equal; the dtype must be the one that is asked for.
  %layout = shufflevector <5 x i1> %equal, <5 x i1> poison, <3 x i32> <i32 2, i32 3, i32 4>
  %fits = call i1 @llvm.vector.reduce.and.v3i1(<3 x i1> %layout)
  %typed = icmp eq i64 %tensor_dtype, %dtype
  %good = and i1 %fits, %typed
  %place = getelementptr i64, ptr %pointers, i64 %i
  br i1 %good, label %write, label %end
write:
  store i64 %pointer, ptr %place
  br label %alike
alike:
  %following = add i64 %i, 1
  br label %next
end:
  ret i64 %i
}
declare i1 @llvm.vector.reduce.and.v5i1(<5 x i1>)
declare i1 @llvm.vector.reduce.and.v3i1(<3 x i1>)
