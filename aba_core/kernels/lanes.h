/* Vectors of one type of numbers, REAL, and of integers as wide, WHOLE. Included once for each. */
#undef LANES
#define LANES (VECTOR / sizeof(REAL))

typedef REAL NAME(vec) __attribute__((vector_size(VECTOR), aligned(sizeof(REAL)), may_alias));
typedef WHOLE NAME(mask) __attribute__((vector_size(VECTOR)));

INLINE NAME(vec) NAME(load)(const REAL *from) { return *(const NAME(vec) *)from; }
INLINE void NAME(store)(REAL *to, NAME(vec) values) { *(NAME(vec) *)to = values; }
INLINE NAME(mask) NAME(select)(NAME(mask) where, NAME(mask) yes, NAME(mask) no)
{
    return (where & yes) | (~where & no);
}
