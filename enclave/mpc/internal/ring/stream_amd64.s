#include "textflag.h"

// Two blocks of AES fit a register, and eight registers are as many as hide how long a round takes.

// func features() uint32
TEXT ·features(SB), NOSPLIT, $0-4
	MOVL $7, AX
	XORL CX, CX
	CPUID
	MOVL CX, ret+0(FP)
	RET

// The number of a block, its upper half, is kept little-endian, to be added to, and turned when it is used.
DATA turn<>+0(SB)/8, $0x0706050403020100
DATA turn<>+8(SB)/8, $0x08090a0b0c0d0e0f
DATA turn<>+16(SB)/8, $0x0706050403020100
DATA turn<>+24(SB)/8, $0x08090a0b0c0d0e0f
GLOBL turn<>(SB), RODATA|NOPTR, $32

DATA one<>+0(SB)/8, $0
DATA one<>+8(SB)/8, $1
GLOBL one<>(SB), RODATA|NOPTR, $16

// COUNTER sets Y8 to two counter blocks and Y9 to what turns them, and Y10 to two, what is added for the next two.
#define COUNTER(nonce, block) \
	VMOVQ       (nonce), X8       \
	VPINSRQ     $1, block, X8, X8 \
	VMOVDQU     one<>(SB), X10    \
	VPADDQ      X10, X8, X9       \
	VINSERTI128 $1, X9, Y8, Y8    \
	VPADDQ      X10, X10, X10     \
	VINSERTI128 $1, X10, Y10, Y10 \
	VMOVDQU     turn<>(SB), Y9

// NEXT takes two counter blocks.
#define NEXT(y) \
	VPSHUFB Y9, Y8, y \
	VPADDQ  Y10, Y8, Y8

// ROUND is one round of eight registers, the first four under one key and the others under another.
#define ROUND(instruction, k, k0, k1) \
	VMOVDQU     k(k0), Y11  \
	VMOVDQU     k(k1), Y12  \
	instruction Y11, Y0, Y0 \
	instruction Y11, Y1, Y1 \
	instruction Y11, Y2, Y2 \
	instruction Y11, Y3, Y3 \
	instruction Y12, Y4, Y4 \
	instruction Y12, Y5, Y5 \
	instruction Y12, Y6, Y6 \
	instruction Y12, Y7, Y7

#define ENCRYPT(k0, k1) \
	ROUND(VPXOR, 0, k0, k1)     \
	ROUND(VAESENC, 32, k0, k1)  \
	ROUND(VAESENC, 64, k0, k1)  \
	ROUND(VAESENC, 96, k0, k1)  \
	ROUND(VAESENC, 128, k0, k1) \
	ROUND(VAESENC, 160, k0, k1) \
	ROUND(VAESENC, 192, k0, k1) \
	ROUND(VAESENC, 224, k0, k1) \
	ROUND(VAESENC, 256, k0, k1) \
	ROUND(VAESENC, 288, k0, k1) \
	ROUND(VAESENCLAST, 320, k0, k1)

// func keystreamVAES(words *uint64, schedule *schedule, nonce *[8]byte, block uint64, batches int)
TEXT ·keystreamVAES(SB), NOSPLIT, $0-40
	MOVQ words+0(FP), DI
	MOVQ schedule+8(FP), SI
	MOVQ nonce+16(FP), DX
	MOVQ batches+32(FP), CX
	COUNTER(DX, block+24(FP))

sixteen:
	NEXT(Y0)
	NEXT(Y1)
	NEXT(Y2)
	NEXT(Y3)
	NEXT(Y4)
	NEXT(Y5)
	NEXT(Y6)
	NEXT(Y7)
	ENCRYPT(SI, SI)
	VMOVDQU Y0, (DI)
	VMOVDQU Y1, 32(DI)
	VMOVDQU Y2, 64(DI)
	VMOVDQU Y3, 96(DI)
	VMOVDQU Y4, 128(DI)
	VMOVDQU Y5, 160(DI)
	VMOVDQU Y6, 192(DI)
	VMOVDQU Y7, 224(DI)
	ADDQ    $256, DI
	DECQ    CX
	JNZ     sixteen
	VZEROUPPER
	RET

// PART writes four words of the product, masked by the difference of r and m. Y14 is ya + yb; m collects what the high
// halves get, in both halves of a word.
#define PART(off, r, m) \
	VPSUBQ   m, r, r                 \
	VMOVDQU  off(SI)(AX*1), Y11      \
	VMOVDQU  off(DX)(AX*1), Y12      \
	VMOVDQU  off(R8)(AX*1), Y13      \
	VPADDQ   off(R9)(AX*1), Y13, Y14 \
	VPSHUFD  $0xB1, Y13, m           \
	VPSHUFD  $0xB1, Y14, Y15         \
	VPMULLD  Y15, Y11, Y15           \
	VPMULLD  m, Y12, m               \
	VPMULUDQ Y14, Y11, Y14           \
	VPMULUDQ Y13, Y12, Y13           \
	VPADDD   m, Y15, m               \
	VPSLLQ   $32, m, Y15             \
	VPADDD   m, Y15, m               \
	VPSRLQ   $32, m, m               \
	VPSLLQ   $32, m, m               \
	VPADDQ   Y13, Y14, Y13           \
	VPADDQ   m, r, r                 \
	VPADDQ   Y13, r, r               \
	VMOVDQU  r, off(DI)(AX*1)

// func productVAES(z, xa, xb, ya, yb *uint64, schedule0, schedule1 *schedule, nonce *[8]byte, block uint64, batches int)
//
// Masks and products in one loop: factors arrive from memory while blocks are encrypted.
TEXT ·productVAES(SB), NOSPLIT, $0-80
	MOVQ nonce+56(FP), DX
	COUNTER(DX, block+64(FP))
	MOVQ z+0(FP), DI
	MOVQ xa+8(FP), SI
	MOVQ xb+16(FP), DX
	MOVQ ya+24(FP), R8
	MOVQ yb+32(FP), R9
	MOVQ schedule0+40(FP), R10
	MOVQ schedule1+48(FP), R11
	MOVQ batches+72(FP), CX
	XORQ AX, AX

eight:
	NEXT(Y0)
	NEXT(Y1)
	NEXT(Y2)
	NEXT(Y3)
	VMOVDQA Y0, Y4
	VMOVDQA Y1, Y5
	VMOVDQA Y2, Y6
	VMOVDQA Y3, Y7
	ENCRYPT(R10, R11)
	PART(0, Y0, Y4)
	PART(32, Y1, Y5)
	PART(64, Y2, Y6)
	PART(96, Y3, Y7)
	ADDQ    $128, AX
	DECQ    CX
	JNZ     eight
	VZEROUPPER
	RET
