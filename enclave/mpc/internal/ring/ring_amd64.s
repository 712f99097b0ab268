#include "textflag.h"

// func dotAVX2(x, y *uint64, blocks int) uint64
//
// Y0, Y1 add up products of low halves, Y2, Y3 those of low and high halves mod 2^32, in both halves of a word.
TEXT ·dotAVX2(SB), NOSPLIT, $0-32
	MOVQ  x+0(FP), SI
	MOVQ  y+8(FP), DI
	MOVQ  blocks+16(FP), CX
	VPXOR Y0, Y0, Y0
	VPXOR Y1, Y1, Y1
	VPXOR Y2, Y2, Y2
	VPXOR Y3, Y3, Y3

eight:
	VMOVDQU  (SI), Y4
	VMOVDQU  32(SI), Y5
	VPSHUFD  $0xB1, (DI), Y6
	VPSHUFD  $0xB1, 32(DI), Y7
	VPMULUDQ (DI), Y4, Y8
	VPMULUDQ 32(DI), Y5, Y9
	VPMULLD  Y6, Y4, Y6
	VPMULLD  Y7, Y5, Y7
	VPADDQ   Y8, Y0, Y0
	VPADDQ   Y9, Y1, Y1
	VPADDD   Y6, Y2, Y2
	VPADDD   Y7, Y3, Y3
	ADDQ     $64, SI
	ADDQ     $64, DI
	DECQ     CX
	JNZ      eight

	VPADDQ       Y1, Y0, Y0
	VPADDD       Y3, Y2, Y2
	VPSHUFD      $0xB1, Y2, Y3
	VPADDD       Y3, Y2, Y2
	VPSLLQ       $32, Y2, Y2
	VPADDQ       Y2, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPADDQ       X1, X0, X0
	VPSHUFD      $0xEE, X0, X1
	VPADDQ       X1, X0, X0
	VMOVQ        X0, AX
	MOVQ         AX, ret+24(FP)
	VZEROUPPER
	RET
